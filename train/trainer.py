"""The run: from the first step, or the newest checkpoint, to the last step."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import record_function

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.local_response_norm import compiled_local_response_norm, local_response_norm
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.faults import advice
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.train.capture import CapturedStep, CudaGraph
from alexnet_dali.train.checkpoints import best, checkpoint
from alexnet_dali.train.checkpoints.best import Best
from alexnet_dali.train.checkpoints.checkpoint import CheckpointError
from alexnet_dali.train.checkpoints.run_folder import check_kept, claim
from alexnet_dali.train.checkpoints.state import TrainingState, check_shapes, new_sums
from alexnet_dali.train.checkpoints.warm_start import take_layers
from alexnet_dali.train.config import Config, to_dict
from alexnet_dali.train.data import crop_mean, evaluation_batches, training_batches, training_plan
from alexnet_dali.train.evaluation import ErrorRates, error_rates, guesses, label_ranks
from alexnet_dali.train.optim import PaperSGD, lr_factors, schedule
from alexnet_dali.train.parallel.agreement import Agreement
from alexnet_dali.train.parallel.precision import autocast, set_matmul_precision
from alexnet_dali.train.parallel.ranks import GradientAllReduce, Ranks
from alexnet_dali.train.parallel.same_start import check_beginning, check_folder, check_options
from alexnet_dali.train.parallel.stop import StopRequest
from alexnet_dali.train.parallel.watchdog import Progress
from alexnet_dali.train.record.bad_images import BadImages
from alexnet_dali.train.record.header import header
from alexnet_dali.train.record.layers import LayerStats
from alexnet_dali.train.record.metrics import Monitor, clock, progress_line, say
from alexnet_dali.train.record.pictures import Pictures
from alexnet_dali.train.record.profile import Profile
from alexnet_dali.train.record.stopwatch import Stopwatch

_EXPLODED = 100
"""Times the loss by guessing, beyond which training can't come back."""

_LEARNS_BY = 5
"""Epochs after which a network that only guesses is remarked upon."""


class TrainingError(ValueError):
    """Training that can't usefully go on, and what to try."""


class Trainer:
    """Everything that a step needs, and the loop over the steps."""

    def __init__(self, config: Config, ranks: Ranks, progress: Progress | None = None) -> None:
        """Open data and run folder, build the network, and restore the newest checkpoint if any.

        `progress` is told what this rank is doing.
        """
        self.config, self.ranks = config, ranks
        self.progress = progress or Progress()
        check_options(config, ranks)
        self.folder = Path(str(config.run.dir))
        self.dataset = Dataset.open(Path(str(config.data.root)))
        self.plan = training_plan(config, self.dataset)
        ranks.local_batch_size(config.train.batch_size)

        set_matmul_precision(config.train.precision, ranks.device)
        self.autocast = autocast(config.train.precision, ranks.device)
        self.state = self._new_state()
        self.all_reduce = GradientAllReduce(self.state.model, ranks.data_group)
        self.masks = DropoutMasks(config.train.seed, self.state.step, ranks.device, ranks.pair)
        self.captured: CapturedStep | None = None
        if config.train.cuda_graph:
            self.captured = CapturedStep(self.state.model.parameters(), CudaGraph(ranks.device))

        self.bad_images = BadImages(self.folder, config.data, len(self.dataset.train), ranks)
        self.stopwatch = Stopwatch(ranks.device, holds=ranks.is_main)
        trace = self.folder / f"trace-rank{ranks.rank}.json"
        self.profile = Profile(config.run.profile, trace, ranks.device)
        self.agreement = Agreement(ranks.all_reduce_max)

        self._claim()
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._logged_at = time.monotonic()
        self._has_stepped = False
        self.best = Best()
        self._resume()
        check_beginning(self.state.step, ranks)
        self.monitor = Monitor(self.folder, self.state.step) if ranks.is_main else None
        if ranks.is_main:
            self.bad_images.forget_after(self.state.step)
        self.layer_stats = LayerStats(self.state.model, ranks, config.model.activation == "relu")
        self.pictures: Pictures | None = None

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.state.step // self.plan.steps_per_epoch

    def fit(self) -> int:
        """Train until the schedule, the epochs, max_steps or a signal ends it.

        Returns the exit status: 0, or 128 + n after signal n.
        """
        with StopRequest() as stop:
            self._introduce()
            batches = self.batches()
            while (batch := self._next(batches)) is not None:
                self.stopwatch.got_batch()
                with self.layer_stats.watching(self._is_shown(self.state.step + 1)):
                    self.train_step(batch)
                self.stopwatch.end_step()
                self.profile.end_step()
                flags = stop.signal or 0, self._log_is_due(), self._save_is_due()
                number, log_now, save_now = self.agreement.after_step(*flags)
                self._after_step(batch, bool(log_now), bool(save_now))
                if number or self.state.schedule.finished:
                    break
                self.stopwatch.end_turn()
            # Once more, as a signal may have come after the last meeting.
            (number,) = self.ranks.all_reduce_max([stop.signal or 0])
            self.save()
        number = number or stop.signal or 0  # it may also come while the last checkpoint is written
        self._say_goodbye(int(number))
        return 128 + int(number) if number else 0

    def train_step(self, batch: Batch) -> None:
        """The next step, which is replayed where steps are captured.

        One whose layers are watched is not: nobody could look into a replay.
        """
        self.masks.set_step(self.state.step)
        if self.captured is None or self._is_shown(self.state.step + 1):
            self.compute(batch)
        else:
            with self._at("captured step"):
                self.captured.take(self.compute, batch)
        self.state.step += 1
        self._has_stepped = True

    def compute(self, batch: Batch) -> None:
        """Forward, loss, backward and the paper's update (section 5).

        What changes from step to step lies in tensors, so that this can be captured.
        """
        state = self.state
        with self.autocast, self._at("forward"):
            logits = state.model(batch.images, self.masks).float()
        loss = F.cross_entropy(logits, batch.labels)

        state.optimizer.zero_grad(set_to_none=True)
        with self._at("backward"):
            loss.backward()
            self.all_reduce.wait()
        with self._at("update"):
            state.optimizer.step()

        wrong = (label_ranks(logits.detach(), batch.labels) >= 1).double().mean()
        state.sums += torch.stack([loss.detach().double(), wrong, torch.ones_like(wrong)])

    def validate(self) -> ErrorRates:
        """Error rates over the validation images, by their central crops."""
        data, ranks = self.config.data, self.ranks
        batch_size, on_bad_image = self.config.train.batch_size, self.bad_images.in_evaluation
        batches = evaluation_batches(self.dataset.val, data, ranks, batch_size, on_bad_image)
        mean = crop_mean(self.dataset.stats, data, ranks.device)
        with self.autocast:
            return error_rates(
                self.state.model, self._noted(batches), mean, ranks.all_reduce_over_pairs
            )

    def _noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches of an evaluation, each noted as progress."""
        for batch in batches:
            self.progress.at("evaluation", self.state.step)
            yield batch

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self._saved_step == self.state.step:
            return
        self.progress.at("saving", self.state.step)
        # After a resume, the images up to this step are not looked at again.
        self.bad_images.share(self.state.step, self.plan.steps_per_epoch)
        saved = self.state.gather(self.ranks)
        loss_sum, _, steps = saved["intervals"].sum(0).tolist()
        self._check_loss(loss_sum / max(steps, 1))
        if not all(self.ranks.all_gather_object(self.state.is_finite())):
            raise TrainingError(
                f"weights, gradients or momentum are no longer numbers at step {self.state.step}, "
                "so no checkpoint of it is written; the newest one is from before. Try a smaller "
                "--optim.lr in another --run.dir"
            )
        stats = vars(self.dataset.stats).items()
        saved |= {
            "config": to_dict(self.config),
            "classes": self.dataset.classes,
            "names": self.dataset.names,
            "stats": {key: torch.from_numpy(value.copy()) for key, value in stats},
            "dataset": self.dataset.fingerprint,
            "best": self.best.state(),
        }
        if self.monitor:
            self.monitor.flush()  # lines up to this step are not written again, either
            keep = self.config.run.keep_checkpoints
            is_best = self.best.is_of(self.state.step, self.plan.steps_per_epoch)
            check_kept(self.folder)
            checkpoint.save(self.folder / "checkpoints", saved, keep, is_best)
        self._saved_step, self._saved_at = self.state.step, time.monotonic()
        self.stopwatch.resume()

    def batches(self) -> Iterator[Batch]:
        """The training batches from the next step on."""
        if self.state.schedule.finished:
            return iter(())
        batches = training_batches(
            self.dataset, self.config, self.ranks, self.state.step, self.bad_images.in_training
        )
        self.stopwatch.resume()
        return batches

    def _new_state(self) -> TrainingState:
        """The network and its optimizer as they are before the first step."""
        config, device = self.config, self.ranks.device
        norm = compiled_local_response_norm(device) if config.train.compile else local_response_norm
        num_classes, crop = len(self.dataset.classes), config.data.crop
        columns, seed = self.ranks.columns, config.train.seed
        model = AlexNet(config.model, num_classes, crop, columns, seed, norm).to(device)
        optimizer = PaperSGD(model.named_parameters(), config.optim)
        rates = schedule(config.optim, config.train.epochs)
        return TrainingState(model, optimizer, rates, new_sums(device))

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, if there is one."""
        with self._at("waiting for data"):
            return next(batches, None)

    def _at(self, doing: str) -> AbstractContextManager[Any]:
        """Note what begins, for other ranks and, where one is made, for the profile."""
        self.progress.at(doing if self._has_stepped else "first step", self.state.step)
        return record_function(doing) if self.profile.is_on else nullcontext()

    def _after_step(self, batch: Batch, log_now: bool, save_now: bool) -> None:
        """All that is due at this step.

        A line comes before a checkpoint of its step: its sums are not in that any more.
        """
        step, run = self.state.step, self.config.run
        epoch_ends = step % self.plan.steps_per_epoch == 0
        if log_now or epoch_ends or not run.log_seconds:
            self._log()
        if self._is_shown(step):
            self._show(batch)
        if epoch_ends:
            self._end_epoch()
        if save_now or epoch_ends or not run.checkpoint_minutes:
            self.save()

    def _introduce(self) -> None:
        """Say what is trained, and read the images whose predictions are shown."""
        config, state = self.config, self.state
        lines = header(config, state.model, self.dataset, self.plan, self.ranks)
        self._say("\n".join(lines))
        if self.monitor:
            self.monitor.describe(config, lines, state.step)
        if config.run.pictures and state.step < self.plan.num_steps:
            self.pictures = Pictures(self.dataset, config.data, self.ranks)

    def _is_shown(self, step: int) -> bool:
        """Whether layers are watched and pictures drawn: at the first step and each epoch's end."""
        return step == 1 or step % self.plan.steps_per_epoch == 0

    def _show(self, batch: Batch) -> None:
        """Record what the step has shown of the layers, and pictures. Every rank must call it."""
        state, numbers = self.state, self.layer_stats.numbers()
        drawn = self.pictures.draw(state.model, batch, self.autocast) if self.pictures else {}
        if self.monitor:
            self.monitor.write(state.step, self.epoch, numbers)
            self.monitor.show(state.step, drawn)
        self.stopwatch.resume()

    def _log_is_due(self) -> bool:
        """Whether it is time for a line, by the main rank's clock, which decides for all."""
        seconds = time.monotonic() - self._logged_at
        return self.ranks.is_main and seconds > self.config.run.log_seconds

    def _save_is_due(self) -> bool:
        """Whether it is time to save, by the main rank's clock, which decides for all."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return self.ranks.is_main and minutes > self.config.run.checkpoint_minutes

    def _log(self) -> None:
        """Record means over the steps since the last line.

        The host waits for the device here, and never in the step.
        """
        loss_sum, error_sum, steps = (
            self.ranks.all_gather_over_pairs(self.state.sums).sum(0).tolist()
        )
        self.state.sums.zero_()
        self._check_loss(loss_sum / steps)
        self.bad_images.share(self.state.step, self.plan.steps_per_epoch)
        # Every pair has counted every step: the quotient of the sums is the mean over pairs, too.
        metrics = {
            "train/loss": loss_sum / steps,
            "train/top1_error": error_sum / steps,
            "train/lr": self.state.optimizer.lr,
            **self.stopwatch.metrics(self.config.train.batch_size),
            **self.bad_images.metrics(),
        }
        self.stopwatch.reset()
        self._logged_at = time.monotonic()
        if self.monitor:
            step, plan = self.state.step, self.plan
            self.monitor.write(step, self.epoch, metrics)
            running_epoch = 1 + (step - 1) // plan.steps_per_epoch
            epochs = self.config.train.epochs
            line = progress_line(step, plan.num_steps, running_epoch, epochs, metrics)
            say(clock() + line)

    def _check_loss(self, loss: float) -> None:
        """TrainingError where the mean loss is no number, or has exploded."""
        guessing = math.log(len(self.dataset.classes))
        if loss < _EXPLODED * guessing:
            return
        what = f"the loss has risen to {loss:.3g} (guessing gives {guessing:.3g})"
        if not math.isfinite(loss):
            what = "the loss is no longer a number"
        newest = checkpoint.newest(self.folder / "checkpoints")
        stands = f"{newest} is the last good checkpoint" if newest else "there is no checkpoint yet"
        raise TrainingError(
            f"{what} at step {self.state.step}; the learning rate, {self.state.optimizer.lr:g}, is "
            "likely too high for these images: begin afresh with a smaller --optim.lr in another "
            f"--run.dir; {stands}"
        )

    def _end_epoch(self) -> None:
        errors, rates = self.validate(), self.state.schedule
        self.bad_images.share(self.state.step, self.plan.steps_per_epoch)
        rates.end_epoch(errors.top1_error)
        self.best.note(errors.top1_error, self.epoch)
        if self.monitor:
            metrics = {"val/top1_error": errors.top1_error, "val/top5_error": errors.top5_error}
            self.monitor.write(self.state.step, self.epoch, metrics)
        self._say(
            f"{clock()}epoch {self.epoch} ends: validation top-1 error {errors.top1_error:.2%}, "
            f"top-5 {errors.top5_error:.2%}, {errors.num_images} images"
        )
        if self._only_guesses() and self.epoch == _LEARNS_BY:
            look = f"alexnet show-batch {self.folder} --step {self.state.step - 1}"
            self._say(
                f"warning: after {self.epoch} epochs the network only guesses. It goes on; but "
                "better stop it, and try a tenth of this --optim.lr, or ten times as much, in "
                f"another --run.dir. Images and labels: {look} --out batch.png"
            )
        if not rates.finished:
            self._set_learning_rates(rates.lr)
        self.stopwatch.resume()

    def _only_guesses(self) -> bool:
        """Whether the last validation was no better than chance."""
        dataset, error = self.dataset, self.best.last_error
        return self.best.epoch > 0 and guesses(error, len(dataset.val), len(dataset.classes))

    def _set_learning_rates(self, lr: float) -> None:
        """Set the learning rates of the epoch that begins, and print what changes."""
        optim, optimizer = self.config.optim, self.state.optimizer
        if lr != optimizer.lr:
            self._say(f"learning rate is now {lr:g} ({optim.schedule})")
        factors = lr_factors(optim, self.epoch)
        if factors != lr_factors(optim, self.epoch - 1):
            listed = ", ".join(f"{name} times {value:g}" for name, value in factors.items())
            self._say(f"learning rates of layers are now {listed}")
        optimizer.set_lr(lr, self.epoch)

    def _claim(self) -> None:
        """The main rank takes the run's folder, and all wait for its verdict."""
        refused = ""
        if self.ranks.is_main:
            try:
                self._lock = claim(self.folder, self.config)
            except (ValueError, OSError) as error:
                refused = f"{error}{advice(error)}"
        newest = checkpoint.newest(self.folder / "checkpoints")
        name = newest.name if newest else ""
        check_folder(refused, name, self.dataset.fingerprint, self.ranks)

    def _resume(self) -> None:
        found = checkpoint.newest_sound(self.folder / "checkpoints")
        if found is None:
            self._warm_start()
            return
        path, saved, damaged = found
        for remark in damaged:
            self._say(f"warning: {remark}; the run resumes from {path.name} instead")
        if saved["dataset"] != self.dataset.fingerprint:
            raise CheckpointError(
                f"{path} was trained on other images than {self.dataset.folder} holds; "
                "resume with the folder it began with, or start afresh in another --run.dir"
            )
        check_shapes(path, saved["model"], self.state.model)
        self.state.restore(saved, self.ranks, saved["step"] // self.plan.steps_per_epoch)
        self._saved_step = self.state.step
        self._restore_best(path, saved)
        self._say(f"resuming from step {self.state.step} ({path})")

    def _restore_best(self, path: Path, saved: dict[str, Any]) -> None:
        """Know the best epoch so far, and name its file: a kill may have come before that."""
        self.best = Best(**saved["best"])
        if self.ranks.is_main and self.best.is_of(saved["step"], self.plan.steps_per_epoch):
            best.keep(path)

    def _warm_start(self) -> None:
        source = self.config.train.init_from
        if source is None:
            return
        taken, fresh = take_layers(self.state.model, Path(source), self.dataset.classes)
        started = ", ".join(fresh) or "no layer"
        self._say(f"took {', '.join(taken)} from {source}; {started} starts afresh")

    def _say_goodbye(self, number: int) -> None:
        """The last line; `number` is that of the signal that has stopped the run, or 0."""
        if self.monitor:
            self.monitor.close()
        step = self.state.step
        if number:
            saved = f"stopped by {signal.Signals(number).name} after step {step}, which is saved"
            self._say(f"{saved}; rerun the command to resume")
        elif step == self.config.run.max_steps:
            self._say(f"run.max_steps ends it after step {step}; rerun without it to resume")
        else:
            report = self.best.report(self.folder / "checkpoints")
            guess = ", but the network only guesses: try another --optim.lr in another --run.dir"
            what = guess if self._only_guesses() else ""
            self._say(f"finished at step {step}{what}; {report}results are in {self.folder}")

    def _say(self, text: str) -> None:
        if self.ranks.is_main:
            say(text)
