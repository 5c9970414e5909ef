"""The run: from the first step, or the newest checkpoint, to the last step."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.local_response_norm import compiled_local_response_norm, local_response_norm
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.train import data, evaluation
from alexnet_dali.train.capture import READY, CapturedStep, CudaGraph
from alexnet_dali.train.checkpoints.run_folder import RunFolder, check_kept
from alexnet_dali.train.checkpoints.state import TrainingState
from alexnet_dali.train.config import Config, hyperparameters, options, to_dict, to_yaml
from alexnet_dali.train.parallel import agreement
from alexnet_dali.train.parallel.devices import autocast, dtype, set_matmul_precision
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.record import metrics
from alexnet_dali.train.record.bad_images import BadImages
from alexnet_dali.train.record.layers import LayerStats
from alexnet_dali.train.record.pictures import NUM_PREDICTIONS, Pictures
from alexnet_dali.train.record.profile import Profile
from alexnet_dali.train.record.stopwatch import Stopwatch

_LEARNS_BY = 5
"""Epochs after which a network at chance level gets a warning."""


class TrainingError(ValueError):
    """Training that can't usefully go on, and what to try."""


class Trainer:
    """Everything that a step needs, and the loop over the steps."""

    warm_up = READY
    """Steps of a run after which all take the same time."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        note_progress: Callable[[str, int], None] = lambda doing, step: None,
    ) -> None:
        """Open data and run folder, build the network, and restore the newest checkpoint if any.

        `note_progress` is called with what this rank begins to do, and in which step. ValueError
        where options, data and folder do not go together; the folder is then free again.
        """
        self.config, self.ranks, self._note_progress = config, ranks, note_progress
        agreement.check_options(ranks.all_gather_object(options(config)))
        self.folder = Path(str(config.run.dir))
        self.dataset = Dataset.open(Path(str(config.data.root)))
        self.plan = data.training_plan(config.train, self.dataset, config.run.max_steps)
        self.run_folder = RunFolder(self.folder, self.dataset, self.plan.steps_per_epoch, ranks)
        ranks.check_batch_size(config.train.batch_size)
        self._build()
        self._begin_records()
        try:
            self._open_folder()
        except BaseException:
            self.run_folder.release()
            raise

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.state.step // self.plan.steps_per_epoch

    def fit(self) -> int:
        """Train until the schedule, the epochs, max_steps or a signal ends it.

        Returns the exit status: 0, or 128 + n after signal n. The folder is free again then.
        """
        try:
            with agreement.StopRequest() as stop:
                self._introduce()
                self._train(stop)
                # Once more, as a signal may have come after the last meeting.
                (asked,) = self.ranks.all_reduce_max([stop.signal or 0])
                self.save()
            number = int(asked) or stop.signal or 0  # or while the last checkpoint was written
            self._say_goodbye(number)
        finally:
            self.run_folder.release()
        return 128 + number if number else 0

    def _train(self, stop: agreement.StopRequest) -> None:
        batches = self.batches()
        while (batch := self._next(batches)) is not None:
            self.stopwatch.got_batch()
            with self.layer_stats.watching(self._is_shown(self.state.step + 1)):
                self.train_step(batch)
            self.stopwatch.end_step()
            self.profile.end_step()
            flags = stop.signal or 0, self._log_is_due(), self._save_is_due()
            stops, log_now, save_now = self.agreement.after_step(*flags)
            self._after_step(batch, bool(log_now), bool(save_now))
            if stops or self.state.schedule.finished:
                return
            self.stopwatch.end_turn()

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
            logits = state.model(batch.images, self.masks)
        loss = F.cross_entropy(logits, batch.labels)

        state.optimizer.zero_grad(set_to_none=True)
        with self._at("backward"):
            loss.backward()
            self.all_reduce.wait()
        with self._at("update"):
            state.optimizer.step()

        wrong = (evaluation.label_ranks(logits.detach(), batch.labels) >= 1).double().mean()
        state.sums += torch.stack([loss.detach().double(), wrong, torch.ones_like(wrong)])

    def batches(self) -> Iterator[Batch]:
        """The training batches from the next step on."""
        if self.state.schedule.finished:
            return iter(())
        config, steps = self.config, range(self.state.step, self.plan.num_steps)
        batches = data.training_batches(
            self.dataset, config.data, config.train, self.ranks, steps, self.bad_images.in_training
        )
        self.stopwatch.resume()
        return batches

    def validate(self, most: int | None = None) -> evaluation.ErrorRates:
        """Error rates over the validation images, by their central crops.

        Over `most` batches of them, if given.
        """
        batch_size, on_bad_image = self.config.train.batch_size, self.bad_images.in_evaluation
        batches = data.evaluation_batches(
            self.dataset.val, self.config.data, self.ranks, batch_size, on_bad_image
        )
        noted, add_up = self._noted(islice(batches, most)), self.ranks.all_reduce_over_pairs
        with self.autocast:
            return evaluation.error_rates(self.state.model, noted, self.mean, add_up)

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.run_folder.has(self.state.step):
            return
        self._note_progress("saving", self.state.step)
        # After a resume, the images up to this step are not looked at again.
        self.bad_images.share(self.state.step, self.plan.steps_per_epoch)
        gathered = self.state.gather(self.ranks.all_gather_over_pairs)
        loss_sum, _, steps = gathered["intervals"].sum(0).tolist()
        self._check_loss(loss_sum / max(steps, 1))
        if not all(self.ranks.all_gather_object(self.state.is_finite())):
            self._end_diverged("weights, gradients or momentum are non-finite")
        if self.monitor:
            self.monitor.flush()  # lines up to this step are not written again, either
        self.run_folder.save(gathered, to_dict(self.config), self.config.run.keep_checkpoints)
        self.stopwatch.resume()

    def header(self, folder: Path) -> list[str]:
        """What is trained, in `folder`, in five lines."""
        where = "GPUs" if self.ranks.device.type == "cuda" else "the CPU"
        plan = f"{self.plan}; ranks: {self.ranks.world_size}, on {where}"
        return metrics.header(self.state.model, self.config.data.crop, self.dataset, plan, folder)

    def _build(self) -> None:
        """What computes a step."""
        config, ranks = self.config, self.ranks
        set_matmul_precision(config.train.precision, ranks.device)
        self.autocast = autocast(config.train.precision, ranks.device)
        model = self._new_model().to(ranks.device, dtype(config.train.precision))
        self.state = TrainingState.initial(model, config.optim, config.train.epochs)
        self.all_reduce = ranks.gradient_all_reduce(model)
        self.masks = DropoutMasks(config.train.seed, self.state.step, ranks.device, ranks.pair)
        self.mean = data.crop_mean(self.dataset.stats, config.data, ranks.device)
        self.captured: CapturedStep | None = None
        if config.train.cuda_graph:
            self.captured = CapturedStep(model.parameters(), CudaGraph(ranks.device))
        self._has_stepped = False

    def _new_model(self) -> AlexNet:
        """The network as it is before the first step."""
        config, columns = self.config, self.ranks.columns
        compiled, num_classes = config.train.compile, len(self.dataset.classes)
        norm = compiled_local_response_norm(self.ranks.device) if compiled else local_response_norm
        crop, seed = config.data.crop, config.train.seed
        return AlexNet(config.model, num_classes, crop, columns, seed, norm)

    def _begin_records(self) -> None:
        """What looks at the steps; what writes comes once the folder is the run's."""
        ranks, most = self.ranks, self.config.data.max_bad_fraction
        self.bad_images = BadImages(self.folder, len(self.dataset.train), most, ranks)
        self.stopwatch = Stopwatch(ranks.device, holds=ranks.is_main)
        trace = self.folder / f"trace-rank{ranks.rank}.json"
        self.profile = Profile(self.config.run.profile, self.warm_up, trace, ranks.device)
        uses_relu = self.config.model.activation == "relu"
        self.layer_stats = LayerStats(self.state.model, ranks.all_reduce_over_pairs, uses_relu)
        self.pictures: Pictures | None = None
        self.agreement = agreement.Agreement(ranks.all_reduce_max)
        self._logged_at = time.monotonic()

    def _open_folder(self) -> None:
        """Claim the run's folder, and go on from what it holds."""
        config, ranks, state = self.config, self.ranks, self.state
        claims = ranks.all_gather_object(self.run_folder.claim(config))
        agreement.check_data([claim.data for claim in claims])
        saved = self.run_folder.resume(claims, state.model)
        if saved is not None:
            epoch = saved["step"] // self.plan.steps_per_epoch
            state.restore(saved, epoch, ranks.pair, ranks.num_pairs)
        elif config.train.init_from is not None:
            self.run_folder.warm_start(state.model, Path(config.train.init_from))
        self.monitor: metrics.Monitor | None = None
        if ranks.is_main:
            kept = partial(check_kept, self.folder)
            self.monitor = metrics.Monitor(self.folder, state.step, kept)
            self.bad_images.forget_after(state.step)

    def _introduce(self) -> None:
        """Say what is trained, and read the images whose predictions are shown."""
        config, state, lines = self.config, self.state, self.header(self.folder)
        self.ranks.say("\n".join(lines))
        if self.monitor:
            self.monitor.describe(lines, to_yaml(config), hyperparameters(config), state.step)
        if config.run.pictures and state.step < self.plan.num_steps:
            shown = data.samples(self.dataset.val, NUM_PREDICTIONS, config.data, self.ranks)
            names, draws = self.dataset.names, self.ranks.is_main
            self.pictures = Pictures(shown, names, self._predict, draws)

    def _say_goodbye(self, number: int) -> None:
        """The last line; `number` is that of the signal that has stopped the run, or 0."""
        if self.monitor:
            self.monitor.close()
        if too_short := self.profile.close():
            self.ranks.say(too_short)
        step, results = self.state.step, f"{self.run_folder.report_best()}results are in"
        guess = ", but the network is at chance level: try larger initial weights "
        guess += "(--model.init_std) or another --optim.lr in another --run.dir"
        results = f"{guess if self._is_at_chance() else ''}; {results} {self.folder}"
        is_paused = step == self.config.run.max_steps
        self.ranks.say(metrics.last_line(step, number, is_paused, results))

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, if there is one."""
        with self._at("waiting for data"):
            return next(batches, None)

    def _at(self, doing: str) -> AbstractContextManager[Any]:
        """Note what begins, for other ranks and, where one is made, for the profile."""
        self._note_progress(doing if self._has_stepped else "first step", self.state.step)
        return record_function(doing) if self.profile.is_on else nullcontext()

    def _noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches of an evaluation, each noted as progress."""
        for batch in batches:
            self._note_progress("evaluation", self.state.step)
            yield batch

    def _log_is_due(self) -> bool:
        """Whether it is time for a line, by the main rank's clock, which decides for all."""
        seconds = time.monotonic() - self._logged_at
        return self.ranks.is_main and seconds > self.config.run.log_seconds

    def _save_is_due(self) -> bool:
        """Whether it is time to save, by the main rank's clock, which decides for all."""
        minutes = self.run_folder.minutes_since_save()
        return self.ranks.is_main and minutes > self.config.run.checkpoint_minutes

    def _after_step(self, batch: Batch, log_now: bool, save_now: bool) -> None:
        """All that is due at this step.

        A line comes before a checkpoint of its step: its sums are not in that any more.
        """
        step, run = self.state.step, self.config.run
        epoch_ends = step % self.plan.steps_per_epoch == 0
        if log_now or epoch_ends or not run.log_seconds:
            self._log()
        elif step == 1:
            every = f"a line follows every {run.log_seconds:g} s and after each epoch"
            self.ranks.say(f"step 1/{self.plan.num_steps} is done; {every}")
        if self._is_shown(step):
            self._show(batch)
        if epoch_ends:
            self._end_epoch()
        if save_now or epoch_ends or not run.checkpoint_minutes:
            self.save()

    def _is_shown(self, step: int) -> bool:
        """Whether layers are watched and pictures drawn: at the first step and each epoch's end."""
        return step == 1 or step % self.plan.steps_per_epoch == 0

    def _log(self) -> None:
        """Record means over the steps since the last line. Every rank must call it.

        The host waits for the device here, and never in the step.
        """
        state, plan = self.state, self.plan
        loss_sum, error_sum, steps = self.ranks.all_gather_over_pairs(state.sums).sum(0).tolist()
        state.sums.zero_()
        self._check_loss(loss_sum / steps)
        self.bad_images.share(state.step, plan.steps_per_epoch)
        # Every pair has counted every step: the quotient of the sums is the mean over pairs, too.
        values = {
            "train/loss": loss_sum / steps,
            "train/top1_error": error_sum / steps,
            "train/lr": state.optimizer.lr,
            **self.stopwatch.metrics(plan.batch_size),
            **self.bad_images.metrics(),
        }
        self.stopwatch.reset()
        self._logged_at = time.monotonic()
        if self.monitor:
            self.monitor.write(state.step, self.epoch, values)
            epoch = 1 + (state.step - 1) // plan.steps_per_epoch  # the one that is running
            line = metrics.progress_line(state.step, plan.num_steps, epoch, plan.epochs, values)
            self.ranks.say(line)

    def _show(self, batch: Batch) -> None:
        """Record what the step has shown of the layers, and pictures. Every rank must call it."""
        state, numbers = self.state, self.layer_stats.numbers()
        drawn = self.pictures.draw(state.model, batch) if self.pictures else {}
        if self.monitor:
            self.monitor.write(state.step, self.epoch, numbers)
            self.monitor.show(state.step, drawn)
        self.stopwatch.resume()

    def _end_epoch(self) -> None:
        """Validate, and set the learning rates of the epoch that begins."""
        errors, state, epoch = self.validate(), self.state, self.epoch
        self.bad_images.share(state.step, self.plan.steps_per_epoch)
        state.schedule.end_epoch(errors.top1_error)
        self.run_folder.best.note(errors.top1_error, epoch)
        values = {
            "val/top1_error": errors.top1_error,
            "val/top5_error": errors.top5_error,
            "val/loss": errors.loss,
        }
        if self.monitor:
            self.monitor.write(state.step, epoch, values)
        self.ranks.say(metrics.epoch_line(epoch, values, errors.num_images))
        if epoch == _LEARNS_BY and self._is_at_chance():
            self.ranks.say(metrics.chance_warning(epoch, self.folder, state.step - 1))
        if not state.schedule.finished:
            lr = state.schedule.lr
            for change in state.optimizer.describe(lr, epoch):
                self.ranks.say(change)
            state.optimizer.set_lr(lr, epoch)
        self.stopwatch.resume()

    def _predict(self, squares: Tensor) -> Tensor:
        """Probabilities [n, C] of central squares [n, 3, resize, resize], by their centre."""
        with self.autocast:
            return evaluation.probabilities(self.state.model, squares, self.mean, num_views=1)

    def _is_at_chance(self) -> bool:
        """Whether the last validation was no better than chance."""
        dataset, best = self.dataset, self.run_folder.best
        num_images, num_classes = len(dataset.val), len(dataset.classes)
        return best.epoch > 0 and evaluation.guesses(best.last_error, num_images, num_classes)

    def _check_loss(self, loss: float) -> None:
        """TrainingError where the mean loss shows that training has diverged."""
        found = evaluation.divergence(loss, len(self.dataset.classes))
        if found:
            self._end_diverged(found)

    def _end_diverged(self, found: str) -> None:
        newest = self.run_folder.newest()
        stands = f"{newest} is the last good checkpoint" if newest else "there is no checkpoint yet"
        raise TrainingError(
            f"{found} at step {self.state.step}; the learning rate, {self.state.optimizer.lr:g}, "
            "is likely too high for these images: begin afresh with a smaller --optim.lr in "
            f"another --run.dir; {stands}"
        )
