"""Heartbeats of life in the store that the ranks met by: a few calls a round for each rank.

Each rank leaves a sign of its own. One of them, the leader, reads all signs at once and leaves a
word, which the others read. If no new word comes, another rank takes over.
"""

import json
from typing import Any

import torch.distributed as dist

Heartbeat = dict[str, Any]
"""What a rank says of itself."""


class Heartbeats:
    """This rank's part in it. DistError where the store is gone.

    A term is the time of one leader; rank 0 has the first. Each term has a word of its own, so that
    a leader that was only slow talks over nobody.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        self._store, self._rank = store, rank
        self._keys = [f"alive/{one}" for one in range(world_size)]
        self._term = 0
        self._are_there = False
        self.is_leader = rank == 0

    def leave(self, sign: Heartbeat) -> None:
        """Say that this rank lives."""
        self._store.set(self._keys[self._rank], json.dumps(sign))

    def all(self) -> list[Heartbeat | None]:
        """The last sign of each rank, which it may have left long ago; None before its first."""
        if not self._are_there:
            for key in self._keys:  # multi_get waits for keys that nobody has set
                self._store.compare_set(key, "", "")
            self._are_there = True
        found = self._store.multi_get(self._keys)
        return [json.loads(sign) if sign else None for sign in found]

    def tell(self, word: Heartbeat) -> None:
        """Leave the word of this term."""
        self._store.set(self._key_of_word(), json.dumps(word))

    def word(self) -> Heartbeat | None:
        """The last word of this term, if there is one yet."""
        key = self._key_of_word()
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def take_over(self) -> None:
        """Begin the next term, with the first rank that asks for it as its leader."""
        self._term += 1
        self.is_leader = self._store.add(self._key_of_term(self._term), 1) == 1

    def step_down(self) -> bool:
        """Whether another rank has taken over from this one, which then follows it."""
        if not self._store.check([self._key_of_term(self._term + 1)]):
            return False
        self._term += 1
        self.is_leader = False
        return True

    def _key_of_word(self) -> str:
        return f"alive/word of term {self._term}"

    def _key_of_term(self, term: int) -> str:
        return f"alive/term {term}"
