"""Time in which this process was stopped, by Ctrl-Z or in a frozen container: it counts nowhere."""

import time

_SHORTEST = 2.0
"""Seconds; a thread on a busy machine may wake up as late."""

_seconds = 0.0


def overslept(seconds: float) -> None:
    """To be called by a thread that sleeps now and then: so much longer than it wanted to."""
    global _seconds
    if seconds > _SHORTEST:
        _seconds += seconds


def paused() -> float:
    """Seconds in which this process was stopped so far, as far as it knows."""
    return _seconds


def clock() -> float:
    """Seconds of time in which this process could run."""
    return time.monotonic() - _seconds
