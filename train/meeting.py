"""What one rank knows and all must do at the same step: stop at a signal, save on time."""

import time
from collections.abc import Callable

_INTERVAL = 0.25
"""Seconds between two meetings, about: a signal is answered within a second even if steps get
slower meanwhile.
"""


class Meeting:
    """Lets all ranks know what one of them wishes, every few steps.

    A meeting costs every rank a collective on the CPU, as much as a short step on a GPU. How many
    steps go by until the next one is agreed in each, from the pace of the slowest rank, so that all
    ranks meet at the same steps.
    """

    def __init__(self, largest: Callable[[list[float]], list[float]]) -> None:
        """`largest` gives every rank the largest of each number over all ranks."""
        self._largest = largest
        self._steps = self._steps_left = 1
        self._met_at = time.monotonic()

    def after_step(self, *wishes: float) -> list[float]:
        """The largest of each wish over all ranks, if they meet after this step; zeros if not."""
        self._steps_left -= 1
        if self._steps_left:
            return [0.0] * len(wishes)
        pace = (time.monotonic() - self._met_at) / self._steps
        *most, slowest = self._largest([*wishes, pace])
        # At most twice as many as before: the first steps after a start may be fast by chance.
        self._steps = self._steps_left = max(
            1, min(2 * self._steps, int(_INTERVAL / max(slowest, 1e-9)))
        )
        self._met_at = time.monotonic()
        return most
