"""What a run records and prints: TensorBoard, metrics.jsonl, its first lines and progress."""

import errno
import io
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.layers import Conv, shapes
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write, writing_to

_TAGS = {
    "train/top1_error": "errors/top1_train",
    "val/top1_error": "errors/top1_val",
    "val/top5_error": "errors/top5_val",
    "train/loss": "learning/loss",
    "val/loss": "learning/loss_val",
    "train/lr": "learning/rate",
}
"""Tags in TensorBoard, which sorts them: errors first. Others are those of metrics.jsonl."""

_LAYOUT = {
    "errors": {
        "top-1 error, training and validation": ["errors/top1_train", "errors/top1_val"],
        "top-5 error, validation": ["errors/top5_val"],
    },
    "learning": {
        "loss, training and validation": ["learning/loss", "learning/loss_val"],
        "learning rate": ["learning/rate"],
    },
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
        "share of maps or neurons that are zero over the batch": ["units_dead_fraction/.*"],
    },
}
"""The page of custom scalars: charts, in order, and the tags in each as regular expressions."""


class Monitor:
    """Writes numbers where people look for them. Only the main rank has one.

    A thread does the writing, in order: a slow disk must not hold up the steps. What goes wrong
    there is raised by the next call of any method.
    """

    def __init__(self, folder: Path, step: int, check_folder: Callable[[], None]) -> None:
        """Go on after `step`: delete what an interrupted run wrote of later steps.

        `check_folder`, called before each write, raises where somebody has removed the folder.
        """
        self._check_folder, self._path = check_folder, folder / "metrics.jsonl"
        self._forget_after(step)
        # Open as long as the run; without a buffer, what failed is not tried again at the end.
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        threading.excepthook = _leave_to_us
        before = _event_files(folder)
        self._events = SummaryWriter(str(folder), purge_step=step + 1)
        if before:
            _name_after(before[-1], self._events)
        self._thread = ThreadPoolExecutor(1, "monitor")
        self._last: Future[None] = self._thread.submit(lambda: None)

    def write(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record a value for each TensorBoard tag; `epoch` counts the epochs completed."""
        now = time.time()
        self._begin(lambda: self._write(step, epoch, metrics, now))

    def describe(
        self,
        header: Sequence[str],
        recipe: str,
        hyperparameters: Mapping[str, str | float],
        step: int,
    ) -> None:
        """Record what the run that begins, or goes on, after `step` is; `recipe` is its YAML."""
        self._begin(lambda: self._describe(header, recipe, hyperparameters, step))

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
            with writing_to(self._path):
                work()

        self._last = self._thread.submit(after)

    def _write(self, step: int, epoch: int, metrics: dict[str, float], now: float) -> None:
        self._check_folder()
        line = {"step": step, "epoch": epoch, "time": round(now, 3), **metrics}
        text = json.dumps(line).encode() + b"\n"
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        for tag, value in metrics.items():
            self._events.add_scalar(_TAGS.get(tag, tag), value, step, walltime=now)
        self._events.flush()

    def _describe(
        self,
        header: Sequence[str],
        recipe: str,
        hyperparameters: Mapping[str, str | float],
        step: int,
    ) -> None:
        lines = "\n".join(f"- {line}" for line in header)
        self._events.add_text("1 run", lines, step)
        indented = "".join(f"    {line}\n" for line in recipe.splitlines())
        self._events.add_text("2 recipe", indented, step)
        charts = {
            page: {title: ["Multiline", tags] for title, tags in charts.items()}
            for page, charts in _LAYOUT.items()
        }
        self._events.add_custom_scalars(charts)
        metrics = {_TAGS[tag]: 0.0 for tag in ("val/top1_error", "val/top5_error")}
        writer = self._events._get_file_writer()
        for summary in hparams(dict(hyperparameters), metrics):
            writer.add_summary(summary)
        self._events.flush()

    def _show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        self._check_folder()
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


def _event_files(folder: Path) -> list[Path]:
    """TensorBoard's files, in the order in which it reads them: by the time in their names."""
    return sorted(folder.glob("events.out.tfevents.*"))


def _leave_to_us(failed: threading.ExceptHookArgs) -> None:
    """What fails in TensorBoard's thread is raised by the next flush, without its traceback."""
    if not isinstance(failed.thread, event_file_writer._AsyncWriterThread):
        threading.__excepthook__(failed)


def _name_after(last: Path, events: SummaryWriter) -> None:
    """Have TensorBoard read the new file after `last`, though a clock was set back since."""
    events.flush()
    writer = events._get_file_writer().event_writer
    new = Path(writer._file_name)
    if new.name > last.name:
        return
    moment = 1 + int(last.name.split(".")[3])
    later = new.with_name(f"events.out.tfevents.{moment:010d}.{new.name.split('.', 4)[4]}")
    new.rename(later)
    writer._general_file_writer.filename = str(later)  # by which each piece is appended


def _png(picture: NDArray[np.uint8]) -> bytes:
    """The picture, compressed little: SummaryWriter's way takes twice as long."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return file.getvalue()


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


def header(model: AlexNet, crop: int, dataset: Dataset, plan: str, folder: Path) -> list[str]:
    """A run's first lines: the network, the images, the plan, the folder, and how to watch."""
    columns = "two columns" if model.columns.num_columns == 2 else "one column"
    return [
        f"network: {len(model.table)} layers in {columns}, "
        f"{num_parameters(model, crop):,} parameters",
        f"images: {len(dataset.train):,} for training, {len(dataset.val):,} for validation, "
        f"{len(dataset.classes):,} classes, from {dataset.folder}",
        f"plan: {plan}",
        f"folder: {folder}",
        f"watch: tensorboard --logdir {shlex.quote(str(_logdir(folder)))} --host localhost",
    ]


def num_parameters(model: AlexNet, crop: int) -> int:
    """Weights and biases of the whole network, wherever its columns are."""
    columns = model.columns.num_columns
    total = 0
    for layer in model.table:
        shape = shapes(model.table, columns, crop)[layer.name]
        window = layer.size**2 if isinstance(layer, Conv) else 1
        neurons = model.num_classes if layer is model.table[-1] else columns * shape.out_channels
        total += neurons * (shape.in_channels * window + 1)
    return total


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
    return _clock() + "  ".join(parts)


def epoch_line(epoch: int, metrics: Mapping[str, float], num_images: int) -> str:
    """One line that says how good the network is after an epoch."""
    return (
        f"{_clock()}epoch {epoch} ends: validation top-1 error {metrics['val/top1_error']:.2%}, "
        f"top-5 {metrics['val/top5_error']:.2%}, {num_images} images"
    )


def chance_warning(epoch: int, folder: Path, step: int) -> str:
    """What to do where the network is still at chance level after `epoch` epochs."""
    look = f"alexnet show-batch {folder} --step {step}"
    return (
        f"warning: after {epoch} epochs the network is at chance level. It goes on; but better "
        "stop it, and try larger initial weights (--model.init_std), a tenth of this --optim.lr, "
        "or ten times as much, in another --run.dir. "
        f"Images and labels: {look} --out batch.png"
    )


def last_line(step: int, stopped_by: int, is_paused: bool, results: str) -> str:
    """How a run has ended, after `step`; `results` are those of one that is finished.

    `stopped_by` is the number of a signal, or 0; `is_paused` where run.max_steps ended it.
    """
    if stopped_by:
        name = signal.Signals(stopped_by).name
        return f"stopped by {name} after step {step}, which is saved; rerun the command to resume"
    if is_paused:
        return f"run.max_steps ends it after step {step}; rerun without it to resume"
    return f"finished at step {step}{results}"


def _logdir(folder: Path) -> Path:
    """Where TensorBoard finds the run: in `runs` with the others, or in its own folder."""
    return folder.parent if folder.parent.name == "runs" else folder


def _clock() -> str:
    """The time of day, to begin a line with, where the output is no terminal."""
    return "" if sys.stdout.isatty() else time.strftime("%H:%M:%S  ")


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
