"""What the run shows of itself: TensorBoard, metrics.jsonl and a progress line."""

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from pipeline.files import atomic_write


class Stopwatch:
    """Splits the time of training steps into waiting for data and computing, as the device sees it.

    A GPU works through what the host has issued, some steps behind it. Its marks are events in its
    own queue. It waits for data only if it has nothing left to do before the next batch is there.
    Evaluations and checkpoints do not count; nor does the first step, which warms everything up.
    """

    def __init__(self, device: torch.device) -> None:
        self._now, self._seconds = _GPU_CLOCK if device.type == "cuda" else _HOST_CLOCK
        self._mark = self._now()
        self._warm = False
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self._waits: list[tuple[Any, Any]] = []
        self._steps: list[tuple[Any, Any]] = []

    def resume(self) -> None:
        """Time from here on belongs to the next step."""
        self._mark = self._now()

    def got_batch(self) -> None:
        """The wait for a batch ends here."""
        self._waits.append(self._lap())

    def end_step(self) -> None:
        """The step's work has been issued."""
        self._steps.append(self._lap())
        if not self._warm:
            self._warm = True
            self.reset()

    def _lap(self) -> tuple[Any, Any]:
        before, self._mark = self._mark, self._now()
        return before, self._mark

    def metrics(self, batch_size: int) -> dict[str, float]:
        """Throughput over the interval, by TensorBoard's tags.

        Empty where nothing but the warm-up was timed. The host must have waited for the device to
        finish the last step.
        """
        if not self._steps:
            return {}
        waited = sum(self._seconds(*lap) for lap in self._waits)
        total = waited + sum(self._seconds(*lap) for lap in self._steps)
        return {
            "throughput/images_per_second": len(self._steps) * batch_size / total,
            "throughput/data_wait_fraction": waited / total,
            "throughput/step_ms": 1000 * total / len(self._steps),
        }


def _mark_on_gpu() -> torch.cuda.Event:
    """Mark the end of the GPU's queue; the time is known once the GPU has come there."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


_Clock = tuple[Callable[[], Any], Callable[[Any, Any], float]]
"""How to mark a moment, and the seconds between two marks."""

_GPU_CLOCK: _Clock = (_mark_on_gpu, lambda before, after: before.elapsed_time(after) / 1000)
_HOST_CLOCK: _Clock = (lambda: time.perf_counter(), lambda before, after: after - before)


class Monitor:
    """Writes numbers where people look for them. Only the main rank has one."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after `step`: delete what an interrupted run wrote of later steps."""
        self._path = folder / "metrics.jsonl"
        self._forget_after(step)
        self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the run
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record a value for each TensorBoard tag; `epoch` counts the epochs completed."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, **metrics}) + "\n")
        self._file.flush()
        for tag, value in metrics.items():
            self._events.add_scalar(tag, value, step)
        self._events.flush()

    def close(self) -> None:
        """Finish the files."""
        self._file.close()
        self._events.close()

    def _forget_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [line + b"\n" for line in _lines(self._path) if _step_of(line) <= step]
        with atomic_write(self._path) as file:
            file.writelines(kept)


def read_metrics(folder: Path, tag: str) -> dict[int, float]:
    """The values of a TensorBoard tag by step, from a run's metrics.jsonl; none where it has none.

    ValueError where a line can't be read. A last line without an end was cut short by a crash: the
    run writes it again when it resumes.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = [_metrics_of(line) for line in _lines(path)] if path.is_file() else []
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); resuming its run mends it") from error
    return {int(line["step"]): line[tag] for line in lines if tag in line}


def progress_line(
    step: int, num_steps: int, epoch: int, epochs: int, metrics: dict[str, float]
) -> str:
    """One line that says how training goes."""
    parts = [
        f"epoch {epoch}/{epochs}",
        f"step {step}/{num_steps}",
        f"loss {metrics['train/loss']:.5f}",
        f"top-1 error {metrics['train/top1_error']:.1%}",
    ]
    if "throughput/step_ms" in metrics:
        left = timedelta(seconds=round((num_steps - step) * metrics["throughput/step_ms"] / 1000))
        parts += [
            f"{metrics['throughput/images_per_second']:.0f} images/s",
            f"waiting for data {metrics['throughput/data_wait_fraction']:.1%}",
            f"{left} left",
        ]
    return "  ".join(parts)


def say(text: str) -> None:
    """Print for people, at once: torchrun's pipes would hold it back."""
    print(text, file=sys.stdout, flush=True)


def _lines(path: Path) -> list[bytes]:
    """The lines of metrics.jsonl that have an end."""
    return path.read_bytes().split(b"\n")[:-1]


def _metrics_of(line: bytes) -> dict[str, float]:
    """The numbers in a line of metrics.jsonl; ValueError where the run did not write it so."""
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    numbers = found.values() if isinstance(found, dict) and "step" in found else [None]
    if (
        not all(type(number) in (int, float) for number in numbers)
        or type(found["step"]) is not int
    ):
        raise ValueError(f"found {line[:80]!r}, expected numbers by name")
    return found


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; beyond all steps for a line that is damaged."""
    try:
        return _metrics_of(line)["step"]
    except ValueError:
        return float("inf")
