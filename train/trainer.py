"""The run, from the first step or the newest checkpoint to the last step."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from model.alexnet import AlexNet, Masks
from model.response_norm import compiled_response_norm, response_norm
from pipeline.dataset import Dataset
from pipeline.loader import Batch
from pipeline.plan import TrainingPlan
from train import checkpoint
from train.checkpoint import CheckpointError
from train.config import Config, ConfigError, to_dict
from train.data import crop_mean, evaluation_batches, training_batches
from train.distributed import Averaging, Ranks
from train.evaluate import ErrorRates, error_rates, places_of_labels
from train.meeting import Meeting
from train.monitor import Monitor, Stopwatch, progress_line, say
from train.optim import PaperSGD, later_factors, schedule
from train.precision import set_up
from train.profile import Profile
from train.run_folder import claim
from train.stop import StopRequest
from train.traffic import Traffic, bytes_per_step
from train.warm_start import take_layers


class TrainingError(ValueError):
    """Training that can't usefully go on, and what to try."""


class Trainer:
    """Everything that a step needs, and the loop over the steps."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        """Open data and run folder, build the network, and restore the newest checkpoint if there is one."""
        self.config, self.ranks = config, ranks
        self._check_configs()
        self.folder = Path(str(config.run.dir))
        self.dataset = Dataset.open(Path(str(config.data.root)))
        self.plan = _plan(config, self.dataset)
        ranks.share(config.train.batch_size)
        num_classes, seed = len(self.dataset.classes), config.train.seed
        self.precision = set_up(config.train.precision, ranks.device)
        norm = compiled_response_norm(ranks.device) if config.train.compile else response_norm
        self.model = AlexNet(config.model, num_classes, config.data.crop, ranks.columns, seed, norm).to(ranks.device)
        self.averaging = Averaging(self.model, ranks.data_group)
        self.optimizer = PaperSGD(self.model.named_parameters(), config.optim)
        self.schedule = schedule(config.optim, config.train.epochs)
        self.step = 0
        self.saved_step, self._saved_at = -1, time.monotonic()
        self.meeting = Meeting(ranks.largest)
        # Sums of losses and errors, and the number of steps, since the last log line; of this rank's pair.
        self.interval = torch.zeros(3, dtype=torch.float64, device=ranks.device)
        self.stopwatch = Stopwatch(ranks.device)
        self.profile = Profile(config.run.profile, self.folder / f"trace-rank{ranks.rank}.json", ranks.device)
        self.traffic = self._traffic()
        self._lock = claim(self.folder, config) if ranks.is_main else None
        self._resume()
        self._check_beginnings()
        self.monitor = Monitor(self.folder, self.step) if ranks.is_main else None
        self._say(f"ranks: {ranks.world_size}, on {'GPUs' if ranks.device.type == 'cuda' else 'the CPU'}")

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.plan.steps_per_epoch

    def fit(self) -> int:
        """Train until the schedule, the epochs or max_steps end it, or a signal does. Returns the exit status."""
        with StopRequest() as stop:
            batches = self.batches()
            while (batch := self._next(batches)) is not None:
                self.stopwatch.got_batch()
                self.train_step(batch)
                self.stopwatch.end_step()
                self.profile.end_step()
                self._after_step()
                number, save_now = self.meeting.after_step(stop.signal or 0, self._save_is_due())
                if save_now:
                    self.save()
                if number or self.schedule.finished:
                    break
                self.stopwatch.resume()
            # Once more, as a signal may have come after the last meeting.
            (number,) = self.ranks.largest([stop.signal or 0])
            self.save()
        if number:
            self._say(f"stopped by a signal after step {self.step}; the same command goes on from here")
            return 128 + int(number)
        if self.step == self.config.run.max_steps:
            self._say(f"run.max_steps ends it after step {self.step}; the same command without it goes on from here")
        else:
            self._say(f"finished at step {self.step}; results are in {self.folder}")
        if self.monitor:
            self.monitor.close()
        return 0

    def train_step(self, batch: Batch) -> None:
        """Forward, loss, backward and the paper's update (section 5)."""
        masks = Masks(self.config.train.seed, self.step, self.ranks.pair, self.ranks.num_pairs)
        with self.precision, record_function("forward"):
            logits = self.model(batch.images, masks).float()
        loss = F.cross_entropy(logits, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        with record_function("backward"):
            loss.backward()
            self.averaging.wait()
        with record_function("update"):
            self.optimizer.step()
        self.step += 1
        wrong = (places_of_labels(logits.detach(), batch.labels) >= 1).double().mean()
        self.interval += torch.stack([loss.detach().double(), wrong, torch.ones_like(wrong)])

    def evaluate(self) -> ErrorRates:
        """Error rates over the validation images, by their central crops."""
        data, ranks = self.config.data, self.ranks
        batches = evaluation_batches(self.dataset.val, data, ranks, self.config.train.batch_size)
        with self.precision:
            return error_rates(
                self.model, batches, crop_mean(self.dataset.stats, data, ranks.device), ranks.sum_over_pairs
            )

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.saved_step == self.step:
            return
        intervals = self.ranks.all_pairs(self.interval)
        self._check_finite(intervals.sum(0)[0].item())
        state = {
            "step": self.step,
            "model": self.model.full_state(),
            "momentum": self.ranks.columns.merge([self.optimizer.momentum(column) for column in self.model.own_columns]),
            "lr": self.optimizer.lr,
            "schedule": self.schedule.state(),
            "intervals": intervals,
            "config": to_dict(self.config),
            "classes": self.dataset.classes,
            "stats": {key: torch.from_numpy(value.copy()) for key, value in vars(self.dataset.stats).items()},
            "dataset": self.dataset.fingerprint,
        }
        if self.ranks.is_main:
            checkpoint.save(self.folder / "checkpoints", state, self.config.run.keep_checkpoints)
        self.saved_step, self._saved_at = self.step, time.monotonic()

    def batches(self) -> Iterator[Batch]:
        """The training batches from the next step on."""
        if self.schedule.finished:
            return iter(())
        config, dataset = self.config, self.dataset
        batches = training_batches(
            dataset.train, self.plan, dataset.stats, config.data, self.ranks, config.train.batch_size, self.step
        )
        self.stopwatch.resume()
        return batches

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, if there is one."""
        with record_function("waiting for data"):
            return next(batches, None)

    def _after_step(self) -> None:
        if self.step % self.config.run.log_every == 0:
            self._log()
        epoch_ends = self.step % self.plan.steps_per_epoch == 0
        if epoch_ends:
            self._end_epoch()
        every = self.config.run.checkpoint_every
        if epoch_ends or (every and self.step % every == 0):
            self.save()

    def _save_is_due(self) -> bool:
        """By the main rank's clock, which decides for all."""
        return self.ranks.is_main and time.monotonic() - self._saved_at > 60 * self.config.run.checkpoint_minutes

    def _check_configs(self) -> None:
        """ConfigError unless every rank was started with the same options; folders may differ, and what they run on."""
        for rank, other in enumerate(self.ranks.gather(_shared(self.config))):
            mine = _shared(self.config)
            unlike = [f"{key}: {value} and {other[key]}" for key, value in mine.items() if value != other[key]]
            if unlike:
                raise ConfigError(
                    f"ranks {self.ranks.rank} and {rank} were started with different options: {'; '.join(unlike)}; "
                    "give the same command on every machine"
                )

    def _check_beginnings(self) -> None:
        """ConfigError unless every rank goes on from the same step of the same data."""
        found = self.ranks.gather((self.step, self.dataset.fingerprint))
        if len(set(found)) > 1:
            raise ConfigError(
                f"the ranks do not go on from the same step of the same data: found {found}; "
                "run.dir and data.root must be the same folders on every machine"
            )

    def _traffic(self) -> Traffic:
        config, num_pairs = self.config, self.ranks.num_pairs if self.ranks.world_size > 1 else 0
        return bytes_per_step(
            config.model,
            len(self.dataset.classes),
            config.data.crop,
            config.train.batch_size,
            num_pairs,
            config.train.precision,
        )

    def _log(self) -> None:
        """Record means over the steps since the last line; here, and not in the step, the host waits for the device."""
        loss_sum, error_sum, steps = self.ranks.all_pairs(self.interval).sum(0).tolist()
        self.interval.zero_()
        self._check_finite(loss_sum)
        # Every pair has counted every step: the quotient of the sums is the mean over pairs, too.
        metrics = {"train/loss": loss_sum / steps, "train/top1_error": error_sum / steps, "train/lr": self.optimizer.lr}
        metrics |= self.stopwatch.metrics(self.config.train.batch_size)
        metrics["throughput/received_mb_per_step"] = self.traffic.total / 1e6
        self.stopwatch.reset()
        if self.monitor:
            self.monitor.write(self.step, self.epoch, metrics)
            running_epoch = 1 + (self.step - 1) // self.plan.steps_per_epoch
            say(progress_line(self.step, self.plan.num_steps, running_epoch, self.config.train.epochs, metrics))

    def _check_finite(self, loss_sum: float) -> None:
        if not math.isfinite(loss_sum):
            raise TrainingError(
                f"the loss is no longer a number at step {self.step}; the learning rate, {self.optimizer.lr:g}, is "
                "likely too high for these images: try a smaller --optim.lr in another --run.dir"
            )

    def _end_epoch(self) -> None:
        errors = self.evaluate()
        self.schedule.end_epoch(errors.top1_error)
        if self.monitor:
            metrics = {"val/top1_error": errors.top1_error, "val/top5_error": errors.top5_error}
            self.monitor.write(self.step, self.epoch, metrics)
        self._say(
            f"epoch {self.epoch} ends: validation top-1 error {errors.top1_error:.2%}, top-5 {errors.top5_error:.2%}, "
            f"{errors.num_images} images"
        )
        if self.schedule.finished:
            return
        if self.schedule.lr != self.optimizer.lr:
            self._say(f"learning rate is now {self.schedule.lr:g} ({self.config.optim.schedule})")
        factors = later_factors(self.config.optim, self.epoch)
        if factors != later_factors(self.config.optim, self.epoch - 1):
            self._say(f"from now on times {', '.join(f'{value:g} in {name}' for name, value in factors.items())}")
        self.optimizer.set_lr(self.schedule.lr, self.epoch)

    def _resume(self) -> None:
        path = checkpoint.newest(self.folder / "checkpoints")
        if path is None:
            self._warm_start()
            return
        state = checkpoint.load(path)
        if state["dataset"] != self.dataset.fingerprint:
            raise CheckpointError(
                f"{path} was trained on other images than {self.dataset.folder} holds; "
                "go on with the folder it began with, or start afresh in another --run.dir"
            )
        check_shapes(path, state["model"], self.model)
        self.model.load_full_state(state["model"])
        for column, buffers in zip(self.model.own_columns, self.ranks.columns.split(state["momentum"]), strict=True):
            self.optimizer.restore(column, buffers, state["lr"], state["step"] // self.plan.steps_per_epoch)
        self.schedule.restore(state["schedule"])
        self._restore_interval(state["intervals"])
        self.step = self.saved_step = state["step"]
        self._say(f"going on from step {self.step} ({path})")

    def _warm_start(self) -> None:
        source = self.config.train.init_from
        if source is None:
            return
        taken, fresh = take_layers(self.model, Path(source), self.dataset.classes)
        self._say(f"took {', '.join(taken)} from {source}; {', '.join(fresh) or 'no layer'} starts afresh")

    def _restore_interval(self, intervals: Tensor) -> None:
        """Each pair takes its own sums; where there were other pairs, the first takes them all."""
        if len(intervals) == self.ranks.num_pairs:
            self.interval.copy_(intervals[self.ranks.pair])
        elif self.ranks.pair == 0:
            # Other pairs counted the steps then: weigh them as this many would have.
            self.interval.copy_(intervals.sum(0) * (self.ranks.num_pairs / len(intervals)))

    def _say(self, text: str) -> None:
        if self.ranks.is_main:
            say(text)


def check_shapes(path: Path, full: dict[str, Tensor], model: AlexNet) -> None:
    """CheckpointError where the `full` network of the checkpoint at `path` is not that of `model`."""
    found = {key: tuple(value.shape) for key, value in model.columns.split(full)[0].items()}
    expected = {key: tuple(value.shape) for key, value in model.own_columns[0].state_dict().items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise CheckpointError(
                f"{path} holds another network: {key} is {found.get(key)}, expected {expected.get(key)}; "
                "choose the config it was trained with, or another --run.dir"
            )


def _shared(config: Config) -> dict[str, Any]:
    """What all ranks must have been told alike, by section.field."""
    own = ("data.root", "data.num_threads", "run.dir", "run.device")
    sections = to_dict(config).items()
    fields = {f"{section}.{key}": value for section, values in sections for key, value in values.items()}
    return {key: value for key, value in fields.items() if key not in own}


def _plan(config: Config, dataset: Dataset) -> TrainingPlan:
    batch_size, num_images = config.train.batch_size, len(dataset.train)
    if batch_size > num_images:
        raise ConfigError(
            f"train.batch_size is {batch_size}, but {dataset.folder} has {num_images} training images; "
            "expected a batch of no more than that"
        )
    num_steps = config.train.epochs * (num_images // batch_size)
    num_steps = min(num_steps, config.run.max_steps or num_steps)
    data = config.data
    margin = data.resize - data.crop
    augmentation = (data.crops_and_flips, data.lighting_epochs)
    return TrainingPlan(num_images, batch_size, margin, config.train.seed, num_steps, *augmentation)
