"""What one rank knows and all must do at the same step: stop at a signal, save on time."""

import time
from collections.abc import Callable

_INTERVAL = 0.25
"""About how many seconds pass between two meetings.

A signal is then answered within a second, even if steps become slower meanwhile.
"""


class Agreement:
    """Tells all ranks what one of them flags, every few steps.

    A meeting costs every rank a collective on the CPU, which takes as long as a short step on a
    GPU. In each meeting, the ranks agree how many steps to take until the next one, from the pace
    of the slowest rank. So all ranks meet at the same steps.
    """

    def __init__(self, largest: Callable[[list[float]], list[float]]) -> None:
        """`largest` gives every rank the largest of each number over all ranks."""
        self._largest = largest
        self._steps = self._steps_left = 1
        self._met_at = time.monotonic()

    def after_step(self, *flags: float) -> list[float]:
        """The largest of each wish over all ranks, if they meet after this step; zeros if not."""
        self._steps_left -= 1
        if self._steps_left:
            return [0.0] * len(flags)
        pace = (time.monotonic() - self._met_at) / self._steps
        *most, slowest = self._largest([*flags, pace])
        # At most twice as many as before: the first steps after a start may be fast by chance.
        self._steps = self._steps_left = max(
            1, min(2 * self._steps, int(_INTERVAL / max(slowest, 1e-9)))
        )
        self._met_at = time.monotonic()
        return most
