"""The folder of a run: where it resumes, and what it saves.

One process at a time writes to it, and always with the same config.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from filelock import FileLock

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.faults import advice
from alexnet_dali.pipeline.files import atomic_write, locked
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.checkpoint import Best, CheckpointError
from alexnet_dali.train.config import Config, ConfigError, differing_keys, from_dict, to_yaml
from alexnet_dali.train.optim import schedule
from alexnet_dali.train.parallel.ranks import Ranks

_T = TypeVar("_T")

_LOCK = ".lock"


class RunFolder:
    """A run's own folder: it resumes from its checkpoints and adds to them.

    Every rank reads them; the main rank claims the folder and writes.
    """

    def __init__(self, path: Path, dataset: Dataset, steps_per_epoch: int, ranks: Ranks) -> None:
        """`dataset` is what the run trains on."""
        self._path, self._checkpoints = path, path / "checkpoints"
        self._dataset, self._steps_per_epoch, self._ranks = dataset, steps_per_epoch, ranks
        self._lock: FileLock | None = None
        self.best = Best()
        self._saved_step, self._saved_at = -1, time.monotonic()

    def claim(self, config: Config) -> tuple[str, str, str]:
        """Claim it for the run of `config`; every rank must call it.

        Returns what agreement.check_folder compares: why it is refused, or an empty string, the
        newest checkpoint's name, and the data's fingerprint.
        """
        refused = ""
        if self._ranks.is_main:
            try:
                self._lock = claim(self._path, config, self._steps_per_epoch)
            except (ValueError, OSError) as error:
                refused = f"{error}{advice(error)}"
        newest = self.newest()
        return refused, newest.name if newest else "", self._dataset.fingerprint

    def release(self) -> None:
        """Let others claim it."""
        if self._lock is not None:
            self._lock.release()

    def newest(self) -> Path | None:
        """The checkpoint of the highest step."""
        return checkpoint.newest(self._checkpoints)

    def resume(self, model: AlexNet) -> dict[str, Any] | None:
        """What the newest sound checkpoint holds for `model`; None where there is none.

        CheckpointError where it is of other images or of another network, or all are damaged.
        """
        found = checkpoint.newest_sound(self._checkpoints)
        if found is None:
            return None
        path, saved, damaged = found
        for remark in damaged:
            self._ranks.say(f"warning: {remark}; the run resumes from {path.name} instead")
        if saved["dataset"] != self._dataset.fingerprint:
            raise CheckpointError(
                f"{path} was trained on other images than {self._dataset.folder} holds; "
                "resume with the folder it began with, or start afresh in another --run.dir"
            )
        checkpoint.check_shapes(path, saved["model"], model)
        self._restore_best(path, saved)
        self._saved_step = saved["step"]
        self._ranks.say(f"resuming from step {self._saved_step} ({path})")
        return saved

    def warm_start(self, model: AlexNet, path: Path) -> None:
        """Begin with another network's layers; see take_layers."""
        taken, fresh = take_layers(model, path, self._dataset.classes)
        started = ", ".join(fresh) or "no layer"
        self._ranks.say(f"took {', '.join(taken)} from {path}; {started} starts afresh")

    def has(self, step: int) -> bool:
        """Whether the newest checkpoint is of this step."""
        return self._saved_step == step

    def minutes_since_save(self) -> float:
        """Minutes since this process wrote a checkpoint, or began."""
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
            check_kept(self._path)
            checkpoint.save(self._checkpoints, gathered | about, keep, is_best)
        self._saved_step, self._saved_at = step, time.monotonic()

    def report_best(self) -> str:
        """For the run's last line."""
        return self.best.report(self._checkpoints)

    def _restore_best(self, path: Path, saved: dict[str, Any]) -> None:
        """Know the best epoch so far, and name its file: a kill may have come before that."""
        if "best" in saved:
            self.best = Best(**saved["best"])
        elif saved["step"] >= self._steps_per_epoch:
            self._ranks.say(
                f"warning: {path} was written by an earlier version, which kept no record of the "
                f"best epoch; {checkpoint.BEST} will be the best of the epochs from here on"
            )
        if self._ranks.is_main and self.best.is_of(saved["step"], self._steps_per_epoch):
            checkpoint.keep_best(path)


def take_layers(model: AlexNet, path: Path, classes: list[str]) -> tuple[list[str], list[str]]:
    """Copy into `model` what fits of a checkpoint; returns (layers taken, layers afresh).

    `path` may also be a run; its newest checkpoint is taken. A layer fits if its weight and bias
    have the same shapes. The last one must also have been trained on the same `classes`.
    CheckpointError where nothing fits.
    """
    state = checkpoint.load(checkpoint.named(path))
    old, new = state["model"], model.full_state()
    layers = list(dict.fromkeys(key.split(".")[0] for key in new))
    taken = [
        layer
        for layer in layers
        if all(
            key in old and old[key].shape == new[key].shape
            for key in new
            if key.split(".")[0] == layer
        )
        and (layer != layers[-1] or state["classes"] == classes)
    ]
    if not taken:
        raise CheckpointError(
            f"{path}: none of its layers fits this network; train without train.init_from"
        )
    model.load_full_state(
        {key: old[key] if key.split(".")[0] in taken else value for key, value in new.items()}
    )
    return taken, [layer for layer in layers if layer not in taken]


def claim(folder: Path, config: Config, steps_per_epoch: int = 1) -> FileLock:
    """Make `folder` the run's, or resume it; the lock is held as long as the returned object lives.

    Options that concern only later epochs may differ from the run's: `changes.txt` keeps a record.
    ConfigError where the folder belongs to something else, or has checkpoints of another config.
    ValueError where another process writes to it.
    """
    path = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose another --run.dir")
    newest = checkpoint.newest(folder / "checkpoints")
    if folder.exists() and any(folder.iterdir()) and not path.is_file() and newest is None:
        raise ConfigError(
            f"{folder} holds files, but no run (no config.yaml); choose another --run.dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    in_use = f"{folder} is in use by another training that still runs; wait for it"
    lock = locked(folder / _LOCK, in_use)
    if newest is not None:
        _check_same(folder, config, checkpoint.step_of(newest) // steps_per_epoch)
    # What a writer that was killed left behind.
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:
        leftover.unlink()
    with atomic_write(path) as file:
        file.write(to_yaml(config).encode())
    return lock


def check_kept(folder: Path) -> None:
    """OSError where somebody has removed the folder since the run claimed it."""
    if not (folder / _LOCK).exists():
        raise OSError(
            f"{folder}, to which the run writes, is no longer there (removed, renamed or "
            "unmounted?); put it back and rerun the same command to resume. Without it, a rerun "
            "begins afresh"
        )


def read_config(folder: Path) -> Config:
    """The config of the run in `folder`; ConfigError where there is none that can be read."""
    return _read(folder, from_dict)


def changed_options(folder: Path, config: Config) -> list[str]:
    """What differs between the config of the run in `folder` and `config`: see differing_keys.

    ConfigError where the folder has no config that can be read.
    """
    return _read(folder, lambda saved: differing_keys(config, saved))


def check_same_run(folder: Path, config: Config, fingerprint: str) -> None:
    """ValueError where `folder` holds a run of another config or of other images."""
    path = checkpoint.named(folder)
    if not path.is_file():
        return
    changed = changed_options(folder, config)
    if checkpoint.load(path)["dataset"] != fingerprint:
        changed.append("the images")
    if changed:
        raise ValueError(
            f"{folder} was trained otherwise ({'; '.join(changed)}); choose an --out elsewhere"
        )


def _read(folder: Path, use: Callable[[dict[str, Any]], _T]) -> _T:
    """What `use` makes of the config; where config.yaml is lost, of the newest checkpoint's."""
    path = folder / "config.yaml"
    try:
        sound = None if path.is_file() else checkpoint.newest_sound(folder / "checkpoints")
        return use(sound[1]["config"] if sound else yaml.safe_load(path.read_text()))
    except Exception as error:  # yaml raises many kinds for a text that is damaged
        raise ConfigError(
            f"{path} can't be read as the config of a run ({error}); choose another folder"
        ) from error


def _check_same(folder: Path, config: Config, epoch: int) -> None:
    """ConfigError unless the run's first `epoch` epochs would have been the same with `config`."""
    changed = changed_options(folder, config)
    if not changed:
        return
    old = read_config(folder)
    new_schedule = old.optim.schedule != config.optim.schedule
    may_go_on = new_schedule and _goes_on(folder, old, config, epoch)
    refused = [
        change
        for change in changed
        if not _is_of_later_epochs(change.split(":")[0], old, config, epoch)
        and not (may_go_on and change.startswith(("optim.schedule:", "optim.milestones:")))
    ]
    if refused:
        raise ConfigError(
            f"{folder} holds a run with another config ({'; '.join(refused)}); "
            "give the same values to resume it, or another --run.dir to start afresh"
        )
    with open(folder / "changes.txt", "a") as file:
        file.write(f"after epoch {epoch}: {'; '.join(changed)}\n")


def _is_of_later_epochs(name: str, old: Config, new: Config, epoch: int) -> bool:
    """Whether an option's new value leaves the first `epoch` epochs as they were."""
    if name == "train.epochs":
        return new.train.epochs >= epoch and new.optim.schedule != "exponential"
    if name == "optim.lr_at":
        return _begun_alike(old.optim.lr_at, new.optim.lr_at, epoch)
    if name == "optim.milestones":
        earlier = [
            [drop for drop in config.optim.milestones if drop <= epoch] for config in (old, new)
        ]
        return new.optim.schedule == "multistep" and earlier[0] == earlier[1]
    return False


def _begun_alike(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], epoch: int
) -> bool:
    """Whether two lists of (epoch, learning rate) are the same up to `epoch`."""
    first, second = (
        sorted(tuple(pair) for pair in pairs if pair[0] <= epoch) for pairs in (old, new)
    )
    return first == second


def _goes_on(folder: Path, old: Config, new: Config, epoch: int) -> bool:
    """Whether a run may go on from its plateau schedule to steps, after `epoch` epochs.

    It may where the steps that are past give the learning rate that the run has now.
    """
    found = checkpoint.newest_sound(folder / "checkpoints")
    kinds = old.optim.schedule, new.optim.schedule
    if found is None or kinds != ("plateau", "multistep"):
        return False
    saved = found[1]
    rates = schedule(new.optim, new.train.epochs)
    rates.restore({**saved["schedule"], "completed": epoch})
    return rates.lr == saved["lr"]
