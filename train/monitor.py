"""What the run shows of itself: TensorBoard, metrics.jsonl and a progress line."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pipeline.files import atomic_write


class Stopwatch:
    """Splits the time of training steps into waiting for data and computing.

    Evaluations and checkpoints are outside; so is the first step, which warms everything up.
    """

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._warm = False
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self.steps, self.waited, self.computed = 0, 0.0, 0.0

    def resume(self) -> None:
        """Time from here on belongs to the next step."""
        self._mark = time.perf_counter()

    def got_batch(self) -> None:
        """The wait for a batch ends here."""
        self.waited += self._lap()

    def end_step(self) -> None:
        """The step's work has been issued."""
        self.computed += self._lap()
        self.steps += 1
        if not self._warm:
            self._warm = True
            self.reset()

    def synchronised(self) -> None:
        """The host has waited for the device: that was computing too."""
        self.computed += self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap

    def metrics(self, batch_size: int) -> dict[str, float]:
        """Throughput over the interval, by TensorBoard's tags; empty where nothing but the warm-up was timed."""
        total = self.waited + self.computed
        if not self.steps:
            return {}
        return {
            "throughput/images_per_second": self.steps * batch_size / total,
            "throughput/data_wait_fraction": self.waited / total,
            "throughput/step_ms": 1000 * total / self.steps,
        }


class Monitor:
    """Writes numbers where people look for them. Only the main rank has one."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after `step`: what an interrupted run wrote of later steps is taken back."""
        self._path = folder / "metrics.jsonl"
        self._forget_after(step)
        self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the run
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record `metrics`, a value for each TensorBoard tag; `epoch` counts the epochs completed."""
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
        kept = [line for line in self._path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
        with atomic_write(self._path) as file:
            file.writelines(kept)


def progress_line(step: int, num_steps: int, epoch: int, epochs: int, metrics: dict[str, float]) -> str:
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


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; beyond all steps for a line cut short by a crash."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
