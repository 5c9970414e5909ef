"""A run's own checkpoints: where it resumes, what it saves, and which epoch was the best."""

import time
from pathlib import Path
from typing import Any

import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.train.checkpoints import best, checkpoint
from alexnet_dali.train.checkpoints.best import Best
from alexnet_dali.train.checkpoints.state import TrainingState, check_shapes
from alexnet_dali.train.checkpoints.warm_start import take_layers
from alexnet_dali.train.parallel.ranks import Ranks


class RunCheckpoints:
    """The checkpoints in a run's folder. Every rank reads them; the main rank writes."""

    def __init__(self, folder: Path, dataset: Dataset, steps_per_epoch: int, ranks: Ranks) -> None:
        """`folder` is the run's own; `dataset` is what it trains on."""
        self._folder, self._dataset, self._ranks = folder / "checkpoints", dataset, ranks
        self._steps_per_epoch = steps_per_epoch
        self.best = Best()
        self._saved_step, self._saved_at = -1, time.monotonic()

    def newest(self) -> Path | None:
        """The one of the highest step."""
        return checkpoint.newest(self._folder)

    def begin(self, state: TrainingState, init_from: str | None) -> None:
        """Restore `state` from the newest sound one; without any, take layers from `init_from`.

        CheckpointError where they are of other images or of another network, or all are damaged.
        """
        found = checkpoint.newest_sound(self._folder)
        if found is not None:
            self._resume(state, *found)
        elif init_from is not None:
            taken, fresh = take_layers(state.model, Path(init_from), self._dataset.classes)
            started = ", ".join(fresh) or "no layer"
            self._ranks.say(f"took {', '.join(taken)} from {init_from}; {started} starts afresh")

    def has(self, step: int) -> bool:
        """Whether the newest one is of this step."""
        return self._saved_step == step

    def minutes_since_last(self) -> float:
        """Minutes since this process wrote one, or began."""
        return (time.monotonic() - self._saved_at) / 60

    def save(self, gathered: dict[str, Any], recipe: dict[str, Any], keep: int) -> None:
        """Write what TrainingState.gather gave, with what the network expects of images.

        `recipe` is the run's config in plain values; all but the `keep` newest are removed.
        """
        step, dataset = gathered["step"], self._dataset
        if self._ranks.is_main:
            stats = vars(dataset.stats).items()
            about = {
                "config": recipe,
                "classes": dataset.classes,
                "names": dataset.names,
                "stats": {key: torch.from_numpy(value.copy()) for key, value in stats},
                "dataset": dataset.fingerprint,
                "best": self.best.state(),
            }
            is_best = self.best.is_of(step, self._steps_per_epoch)
            checkpoint.save(self._folder, gathered | about, keep, is_best)
        self._saved_step, self._saved_at = step, time.monotonic()

    def report_best(self) -> str:
        """For the run's last line."""
        return self.best.report(self._folder)

    def _resume(
        self, state: TrainingState, path: Path, saved: dict[str, Any], damaged: list[str]
    ) -> None:
        for remark in damaged:
            self._ranks.say(f"warning: {remark}; the run resumes from {path.name} instead")
        if saved["dataset"] != self._dataset.fingerprint:
            raise checkpoint.CheckpointError(
                f"{path} was trained on other images than {self._dataset.folder} holds; "
                "resume with the folder it began with, or start afresh in another --run.dir"
            )
        check_shapes(path, saved["model"], state.model)
        state.restore(saved, self._ranks, saved["step"] // self._steps_per_epoch)
        self._saved_step = state.step
        self._restore_best(path, saved)
        self._ranks.say(f"resuming from step {state.step} ({path})")

    def _restore_best(self, path: Path, saved: dict[str, Any]) -> None:
        """Know the best epoch so far, and name its file: a kill may have come before that."""
        if "best" in saved:
            self.best = Best(**saved["best"])
        elif saved["step"] >= self._steps_per_epoch:
            self._ranks.say(
                f"warning: {path} was written by an earlier version, which kept no record of the "
                f"best epoch; {best.NAME} will be the best of the epochs from here on"
            )
        if self._ranks.is_main and self.best.is_of(saved["step"], self._steps_per_epoch):
            best.keep(path)
