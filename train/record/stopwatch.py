"""Where the time of training steps goes: waiting for data, computing, and waiting for the host."""

import time
from collections.abc import Callable
from typing import Any

import torch

from alexnet_dali.pipeline.system.pauses import paused

_HELD_AFTER = 100
"""Steps without one that the GPU is known to have computed in one go, before one is held back."""

_CYCLES = 2e9
"""A second, in cycles of a GPU; of one with a slower clock, somewhat more."""


class Stopwatch:
    """Splits the time of training steps into waiting for data and computing, as the device sees it.

    A GPU works through what the host has issued, some steps behind it. Its marks are events in its
    own queue. It waits for data only if it has nothing left to do before the next batch is there.
    Evaluations, checkpoints and time in which the process was stopped do not count; nor does the
    first step, which warms everything up.

    Within a step, a GPU is idle where the host issues more slowly than it computes. Events do not
    show that; a step does that the GPU begins when the host has issued all of it: it takes what the
    GPU computes, and no longer. Where the host is never so far ahead, a step in a hundred is held
    back until it is.
    """

    def __init__(self, device: torch.device, holds: bool = False) -> None:
        """`holds`: whether steps may be held back; one rank should, as the others wait for it."""
        self._on_gpu = device.type == "cuda"
        self._now, self._seconds = _GPU_CLOCK if self._on_gpu else _HOST_CLOCK
        self._holds = holds and self._on_gpu
        self.resume()
        self._warm = self._held = False
        self._unknown = 0  # steps since one in one go
        self._in_one_go = 0.0  # seconds that such a step takes
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self._waits: list[_Lap] = []
        self._steps: list[_Lap] = []
        self._rests: list[_Lap] = []
        self._gapless: list[_Lap] = []
        self._issuing = 0.0  # seconds in which the host has issued steps

    def resume(self) -> None:
        """Time up to here belongs to no step."""
        self._mark = self._now(), paused()

    def got_batch(self) -> None:
        """The wait for a batch ends here."""
        self._waits.append(self._lap())
        self._held = self._holds and self._unknown >= _HELD_AFTER and bool(self._steps)
        if self._held:
            seconds = 2 * self._issuing / len(self._steps)
            torch.cuda._sleep(int(_CYCLES * seconds))
            self.resume()
        self._began = time.monotonic()

    def end_step(self) -> None:
        """The step's work has been issued."""
        issuing, lap = time.monotonic() - self._began, self._lap()
        self._unknown += 1
        if self._on_gpu and not lap[0][0].query():  # all is issued, and the GPU has not begun
            self._gapless.append(lap)
            self._unknown = 0
        if self._held:
            self._waits.pop()
            self._unknown = 0
        else:
            self._steps.append(lap)
            self._issuing += issuing
        if not self._warm:
            self._warm = True
            self.reset()

    def end_turn(self) -> None:
        """What the loop does between two steps ends here: it counts, but not as a wait for data."""
        self._rests.append(self._lap())

    def _lap(self) -> "_Lap":
        before = self._mark
        self.resume()
        return before, self._mark

    def metrics(self, batch_size: int) -> dict[str, float]:
        """Throughput over the interval, by TensorBoard's tags.

        Empty where nothing but the warm-up was timed. The host must have waited for the device to
        finish the last step.
        """
        if self._gapless:
            self._in_one_go = self._total(self._gapless) / len(self._gapless)
        if not self._steps:
            return {}
        waited, count = self._total(self._waits), len(self._steps)
        total = waited + self._total(self._steps) + self._total(self._rests)
        found = {
            "throughput/images_per_second": count * batch_size / total,
            "throughput/data_wait_fraction": waited / total,
            "throughput/step_ms": 1000 * total / count,
        }
        if self._in_one_go:
            busy = count * self._in_one_go / total
            found["throughput/gpu_busy_fraction"] = min(1.0, busy)
        return found

    def _total(self, laps: "list[_Lap]") -> float:
        return sum(
            self._seconds(before, after) - (paused_after - paused_before)
            for (before, paused_before), (after, paused_after) in laps
        )


def _mark_on_gpu() -> torch.cuda.Event:
    """Mark the end of the GPU's queue; the time is known once the GPU has come there."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


_Mark = tuple[Any, float]
"""A moment on a clock, and for how long the process had been stopped by then."""

_Lap = tuple[_Mark, _Mark]

_Clock = tuple[Callable[[], Any], Callable[[Any, Any], float]]
"""How to mark a moment, and the seconds between two marks."""

_GPU_CLOCK: _Clock = (_mark_on_gpu, lambda before, after: before.elapsed_time(after) / 1000)
_HOST_CLOCK: _Clock = (lambda: time.perf_counter(), lambda before, after: after - before)
