"""Time in which this process was stopped, by Ctrl-Z or in a frozen container: it counts nowhere."""

import math
import time

_SHORTEST = 2.0
"""Seconds; a thread on a busy machine may wake up as late."""

_state = (0.0, math.inf)
"""Seconds stopped so far, and when the thread that sleeps now wants to wake up."""


def sleeps(seconds: float) -> None:
    """To be called by a thread before it sleeps for so long; and `woke` behind it.

    Where it is late, the process was stopped. Others may ask before it has come to say so.
    """
    global _state
    _state = _state[0], time.monotonic() + seconds


def woke() -> None:
    """See `sleeps`."""
    global _state
    _state = paused(), math.inf


def paused() -> float:
    """Seconds in which this process was stopped so far, as far as it knows."""
    seconds, due = _state
    late = time.monotonic() - due
    return seconds + late if late > _SHORTEST else seconds


def clock() -> float:
    """Seconds of time in which this process could run."""
    return time.monotonic() - paused()
