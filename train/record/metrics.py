"""What the run shows of itself: TensorBoard, metrics.jsonl and a progress line."""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from alexnet_dali.pipeline.files import atomic_write
from alexnet_dali.train.checkpoints.run_folder import check_kept
from alexnet_dali.train.config import Config, to_dict, to_yaml

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
        "share of the time in which the GPU is busy": ["throughput/gpu_busy_fraction"],
        "milliseconds a step": ["throughput/step_ms"],
    },
    "layers": {
        "mean size of an update over that of a weight": ["weights_update_ratio/.*"],
        "mean size of a weight": ["weights/.*"],
        "mean size of an update": ["weights_update/.*"],
        "share of maps or neurons that are zero over the batch": ["dead_fraction/.*"],
    },
}
"""The page of custom scalars: charts, in order, and the tags in each as regular expressions."""


class Monitor:
    """Writes numbers where people look for them. Only the main rank has one.

    A thread does the writing, in order: a slow disk must not hold up the steps. What goes wrong
    there is raised by the next call of any method.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after `step`: delete what an interrupted run wrote of later steps."""
        self._folder, self._path = folder, folder / "metrics.jsonl"
        self._forget_after(step)
        self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the run
        self._events = SummaryWriter(str(folder), purge_step=step + 1)
        self._thread = ThreadPoolExecutor(1, "monitor")
        self._last: Future[None] = self._thread.submit(lambda: None)

    def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record a value for each TensorBoard tag; `epoch` counts the epochs completed."""
        now = time.time()
        self._begin(lambda: self._write(step, epoch, metrics, now))

    def describe(self, config: Config, header: Sequence[str], step: int) -> None:
        """Record the recipe of the run that begins, or goes on, after `step`."""
        self._begin(lambda: self._describe(config, header, step))

    def show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Record pictures [H, W, 3] by their tags."""
        self._begin(lambda: self._show(step, pictures))

    def flush(self) -> None:
        """Wait until all that was recorded is on the disk, to last longer than the machine runs."""
        self._begin(lambda: os.fsync(self._file.fileno()))
        self._last.result()

    def close(self) -> None:
        """Finish the files."""
        self.flush()
        self._thread.shutdown()
        self._file.close()
        self._events.close()

    def _begin(self, work: Callable[[], None]) -> None:
        """Have the thread do `work` after all before it, or not at all if that went wrong."""
        before = self._last
        if before.done():
            before.result()

        def after() -> None:
            before.result()
            work()

        self._last = self._thread.submit(after)

    def _write(self, step: int, epoch: int, metrics: dict[str, float], now: float) -> None:
        check_kept(self._folder)
        line = {"step": step, "epoch": epoch, "time": round(now, 3), **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for tag, value in metrics.items():
            self._events.add_scalar(_TAGS.get(tag, tag), value, step, walltime=now)
        self._events.flush()

    def _describe(self, config: Config, header: Sequence[str], step: int) -> None:
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

    def _show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        check_kept(self._folder)
        writer = self._events._get_file_writer()
        for tag, picture in pictures.items():
            height, width, _ = picture.shape
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=_png(picture)
            )
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

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
        ]
        if "throughput/gpu_busy_fraction" in metrics:
            parts.append(f"GPU busy {metrics['throughput/gpu_busy_fraction']:.1%}")
        parts.append(f"{left} left")
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
