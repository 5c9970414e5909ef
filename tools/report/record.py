"""What the folder of a run says, without its network and its images."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_dali.tools.paper import curves
from alexnet_dali.tools.paper.curves import Curves
from alexnet_dali.train.checkpoints.run_folder import Change, changed_options, read_config
from alexnet_dali.train.config import Config, to_yaml
from alexnet_dali.train.optim import schedule
from alexnet_dali.train.record.metrics import read_metrics


class Epoch(NamedTuple):
    """Validation errors after an epoch, in [0, 1]."""

    number: int
    step: int
    top1_error: float
    top5_error: float


class Speed(NamedTuple):
    """Images a second and the share of time spent waiting for data, by step and over the run."""

    images_per_second: dict[int, float]
    waiting: dict[int, float]
    median: float
    waited: float


class Record(NamedTuple):
    """A run, as its folder records it."""

    name: str
    folder: Path
    config: Config
    recipe: str  # in YAML
    deviations: list[Change]  # from the paper's recipe, whose values are the defaults
    changes: list[str]  # options that were changed on the way
    curves: Curves | None  # None where nothing has been logged
    epochs: list[Epoch]
    steps: int  # so far
    finished: bool
    times: tuple[datetime, datetime] | None  # of the first and the last record
    speed: Speed | None

    @property
    def last(self) -> Epoch | None:
        """The last epoch that was validated."""
        return self.epochs[-1] if self.epochs else None

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest top-1 error, the earliest of several."""
        return min(self.epochs, key=lambda epoch: epoch.top1_error, default=None)


def read(folder: Path) -> Record:
    """Read a run's folder; ConfigError where it holds none, ValueError where its log is damaged."""
    config = read_config(folder)
    changes = folder / "changes.txt"
    numbers, top1, top5 = (
        read_metrics(folder, tag) for tag in ("epoch", "val/top1_error", "val/top5_error")
    )
    return Record(
        folder.resolve().name,
        folder,
        config,
        to_yaml(config),
        changed_options(Config(), config),
        changes.read_text().splitlines() if changes.is_file() else [],
        curves.read(folder) if read_metrics(folder, "train/loss") else None,
        [Epoch(int(numbers[step]), step, top1[step], top5[step]) for step in top1],
        max(numbers, default=0),
        _is_finished(config, list(top1.values())),
        _times(folder),
        _speed(folder),
    )


def _is_finished(config: Config, errors: list[float]) -> bool:
    """Whether training is over, after these validation errors."""
    rates = schedule(config.optim, config.train.epochs)
    for error in errors:
        rates.end_epoch(error)
    return rates.finished or len(errors) >= config.train.epochs


def _times(folder: Path) -> tuple[datetime, datetime] | None:
    """When the first and the last values were recorded, as TensorBoard's files have it."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 1}).Reload()
    last = [events.Scalars(tag)[-1].wall_time for tag in events.Tags()["scalars"]]
    if not last:
        return None
    return (
        datetime.fromtimestamp(events.FirstEventTimestamp(), UTC),
        datetime.fromtimestamp(max(last), UTC),
    )


def _speed(folder: Path) -> Speed | None:
    rates, waits, durations = (
        read_metrics(folder, f"throughput/{tag}")
        for tag in ("images_per_second", "data_wait_fraction", "step_ms")
    )
    if not rates:
        return None
    seconds = np.diff([0, *durations]) * list(durations.values())  # a line is of the steps since
    waited = np.average(list(waits.values()), weights=seconds)
    return Speed(rates, waits, float(np.median(list(rates.values()))), float(waited))
