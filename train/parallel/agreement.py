"""What all ranks do alike: start from the same options, step and data; stop; save."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

_INTERVAL = 0.25
"""About how many seconds pass between two meetings.

A signal is then answered within a second, even if steps become slower meanwhile.
"""

_PATIENCE = 1.0
"""Seconds within which a second signal counts as the same request.

torchrun passes on signals that a rank may already have received itself.
"""

_STOPPING = ("TERM", "INT", "HUP", "USR1", "USR2", "XCPU")
"""Signals by which people, terminals and job managers end a run, or say that they will."""

_MACHINES_OWN = ("data.root", "data.num_threads", "run.dir", "run.device")
"""Options that may differ from one machine to the next."""


def check_options(of_ranks: Sequence[Mapping[str, Any]]) -> None:
    """ValueError unless every rank was started with the same options, by name."""
    first = of_ranks[0]
    compared = [key for key in first if key not in _MACHINES_OWN]
    for rank, own in enumerate(of_ranks):
        unlike = [
            f"{key}: {first[key]} and {own[key]}" for key in compared if first[key] != own[key]
        ]
        if unlike:
            raise ValueError(
                f"ranks 0 and {rank} were started with different options: {'; '.join(unlike)}; "
                "give the same command on every machine"
            )


def check_data(of_ranks: Sequence[str]) -> None:
    """ValueError unless every rank has the same data, by its fingerprint."""
    if len(set(of_ranks)) > 1:
        listed = "; ".join(f"rank {rank}: {data[:8]}" for rank, data in enumerate(of_ranks))
        raise ValueError(
            f"the ranks do not have the same data: found {listed}; data.root must hold the same "
            "prepared images on every machine"
        )


class Agreement:
    """Gives all ranks what one of them flags, every few steps.

    A meeting costs every rank a collective on the CPU, which takes as long as a short step on a
    GPU. In each meeting, the ranks agree how many steps to take until the next one, from the pace
    of the slowest rank. So all ranks meet at the same steps.
    """

    def __init__(self, all_reduce_max: Callable[[list[float]], list[float]]) -> None:
        """`all_reduce_max` gives every rank the largest of each number over all ranks."""
        self._all_reduce_max = all_reduce_max
        self._steps = self._steps_left = 1
        self._met_at = time.monotonic()

    def after_step(self, *flags: float) -> list[float]:
        """The largest of each flag over all ranks, if they meet after this step; zeros if not."""
        self._steps_left -= 1
        if self._steps_left:
            return [0.0] * len(flags)
        pace = (time.monotonic() - self._met_at) / self._steps
        *most, slowest = self._all_reduce_max([*flags, pace])
        # At most twice as many as before: the first steps after a start may be fast by chance.
        self._steps = self._steps_left = max(
            1, min(2 * self._steps, int(_INTERVAL / max(slowest, 1e-9)))
        )
        self._met_at = time.monotonic()
        return most


class StopRequest:
    """While entered, the first signal that would end the run is only noted.

    A later one acts as usual. A hang-up that is ignored, as under nohup, stays so.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0

    def __enter__(self) -> Self:
        numbers = [signal.Signals[f"SIG{name}"] for name in _STOPPING]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            numbers.remove(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > _PATIENCE:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
