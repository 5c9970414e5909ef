"""Heartbeats in the store that the ranks met by: a few calls a round for each rank.

Each rank sends its own heartbeat. One of them, the leader, reads all at once and publishes what it
finds, which the others read. If no new finding comes, another rank takes over.
"""

import json
from typing import Any

import torch.distributed as dist

Heartbeat = dict[str, Any]
"""What a rank says of itself."""

Finding = dict[str, Any]
"""What the leader says of all."""


class Heartbeats:
    """This rank's part in it. DistError where the store is gone.

    A term is the time of one leader; rank 0 has the first. Each term has a finding of its own, so
    that a leader that was only slow overwrites nobody's.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        self._store, self._rank = store, rank
        self._keys = [f"heartbeat/{one}" for one in range(world_size)]
        self._term = 0
        self._keys_exist = False
        self.is_leader = rank == 0

    def send(self, heartbeat: Heartbeat) -> None:
        """Say that this rank lives."""
        self._store.set(self._keys[self._rank], json.dumps(heartbeat))

    def receive(self) -> list[Heartbeat | None]:
        """The last heartbeat of each rank, however old; None before its first."""
        if not self._keys_exist:
            for key in self._keys:  # multi_get waits for keys that nobody has set
                self._store.compare_set(key, "", "")
            self._keys_exist = True
        found = self._store.multi_get(self._keys)
        return [json.loads(heartbeat) if heartbeat else None for heartbeat in found]

    def publish(self, finding: Finding) -> None:
        """Set the finding of this term."""
        self._store.set(self._finding_key(), json.dumps(finding))

    def finding(self) -> Finding | None:
        """The last finding of this term, if there is one yet."""
        key = self._finding_key()
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def take_over(self) -> None:
        """Begin the next term, with the first rank that asks for it as its leader."""
        self._term += 1
        self.is_leader = self._store.add(self._term_key(self._term), 1) == 1

    def step_down(self) -> bool:
        """Whether another rank has taken over from this one, which then follows it."""
        if not self._store.check([self._term_key(self._term + 1)]):
            return False
        self._term += 1
        self.is_leader = False
        return True

    def _finding_key(self) -> str:
        return f"heartbeat/finding of term {self._term}"

    def _term_key(self, term: int) -> str:
        return f"heartbeat/term {term}"
