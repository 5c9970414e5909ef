"""What the run shows of itself: TensorBoard, metrics.jsonl and a progress line."""

import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pipeline.files import atomic_write
from train.config import Config, to_dict, to_yaml
from train.run_folder import check_kept

_TAGS = {
    "train/top1_error": "errors/top1_train",
    "val/top1_error": "errors/top1_val",
    "val/top5_error": "errors/top5_val",
    "train/loss": "learning/loss",
    "train/lr": "learning/rate",
}
"""Tags in TensorBoard, which sorts them: errors first. Others are those of metrics.jsonl."""

_COMPARED = {"optim.lr", "optim.schedule", "train.batch_size", "train.seed"}
_PLACES = {"data.root", "data.num_threads"}

_LAYOUT = {
    "errors": {
        "top-1 error, training and validation": ["errors/top1_train", "errors/top1_val"],
        "top-5 error, validation": ["errors/top5_val"],
    },
    "learning": {"loss, training": ["learning/loss"], "learning rate": ["learning/rate"]},
    "throughput": {
        "images a second": ["throughput/images_per_second"],
        "share of the time waiting for data": ["throughput/data_wait_fraction"],
        "milliseconds a step": ["throughput/step_ms"],
    },
    "layers": {
        "mean size of an update over that of a weight": ["weights_update_ratio/.*"],
        "mean size of a weight": ["weights/.*"],
        "mean size of an update": ["weights_update/.*"],
        "share of maps or neurons that are zero over the batch": ["units_silent/.*"],
    },
}
"""The page of custom scalars: charts, in order, and the tags in each as regular expressions."""


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
        self._folder, self._path = folder, folder / "metrics.jsonl"
        self._forget_after(step)
        self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the run
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record a value for each TensorBoard tag; `epoch` counts the epochs completed."""
        check_kept(self._folder)
        now = round(time.time(), 3)
        self._file.write(json.dumps({"step": step, "epoch": epoch, "time": now, **metrics}) + "\n")
        self._file.flush()
        for tag, value in metrics.items():
            self._events.add_scalar(_TAGS.get(tag, tag), value, step)
        self._events.flush()

    def describe(self, config: Config, header: Sequence[str], step: int) -> None:
        """Record the recipe of the run that begins, or goes on, after `step`."""
        lines = "\n".join(f"- {line}" for line in header)
        self._events.add_text("1 run", lines, step)
        indented = "".join(f"    {line}\n" for line in to_yaml(config).splitlines())
        self._events.add_text("2 recipe", indented, step)
        charts = {
            page: {title: ["Multiline", tags] for title, tags in charts.items()}
            for page, charts in _LAYOUT.items()
        }
        self._events.add_custom_scalars(charts)
        metrics = {_TAGS[tag]: 0.0 for tag in ("val/top1_error", "val/top5_error")}
        writer = self._events._get_file_writer()
        for summary in hparams(_options(config), metrics):
            writer.add_summary(summary)
        self._events.flush()

    def show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Record pictures [H, W, 3] by their tags."""
        check_kept(self._folder)
        writer = self._events._get_file_writer()
        for tag, picture in pictures.items():
            height, width, _ = picture.shape
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=_png(picture)
            )
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

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


def _png(picture: NDArray[np.uint8]) -> bytes:
    """The picture, compressed little: SummaryWriter's way takes twice as long."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _options(config: Config) -> dict[str, str | float]:
    """For the page of hyperparameters: what is usually compared, and all that is no default."""
    own, default = to_dict(config), to_dict(Config())
    return {
        f"{section}.{key}": value if type(value) in (int, float) else str(value)
        for section, values in own.items()
        for key, value in values.items()
        if section != "run" and f"{section}.{key}" not in _PLACES
        if f"{section}.{key}" in _COMPARED or value != default[section][key]
    }


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


def clock() -> str:
    """The time of day, to begin a line with, where the output is no terminal."""
    return "" if sys.stdout.isatty() else time.strftime("%H:%M:%S  ")


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
