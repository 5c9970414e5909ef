"""The folder of a run: where it resumes, and what it saves.

One process at a time writes to it, and what was trained stays true.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import BaseFileLock

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write, locked
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.checkpoint import Best, CheckpointError
from alexnet_dali.train.config import Config, ConfigError, from_dict, from_file, options, to_yaml
from alexnet_dali.train.optim import schedule
from alexnet_dali.train.parallel.ranks import Ranks

_LOCK = ".lock"


class Claim(NamedTuple):
    """What a rank says of the run's folder."""

    data: str  # the fingerprint of its images
    refused: Exception | None = None  # the main rank's: why it can't have the folder
    chosen: tuple[str, bytes] | None = None  # and the newest sound checkpoint: name and identity


class RunFolder:
    """A run's own folder: it resumes from its checkpoints and adds to them.

    The main rank claims it, writes, and chooses the checkpoint that all ranks open.
    """

    def __init__(self, path: Path, dataset: Dataset, steps_per_epoch: int, ranks: Ranks) -> None:
        """`dataset` is what the run trains on."""
        self._path, self._checkpoints = path, path / "checkpoints"
        self._dataset, self._steps_per_epoch, self._ranks = dataset, steps_per_epoch, ranks
        self._lock: BaseFileLock | None = None
        self._saved: dict[str, Any] | None = None
        self.best = Best()
        self._saved_step, self._saved_at = -1, time.monotonic()

    def claim(self, config: Config) -> Claim:
        """Claim it for the run of `config`, and read the checkpoint that it resumes from.

        The main rank does; others say which images they have.
        """
        data = self._dataset.fingerprint
        if not self._ranks.is_main:
            return Claim(data)
        try:
            self._lock = claim(self._path, config)
            found = checkpoint.newest_sound(self._checkpoints)
            if found is None:
                return Claim(data)
            path, self._saved, damaged = found
            for remark in damaged:
                self._ranks.say(f"warning: {remark}; the run resumes from {path.name} instead")
            return Claim(data, chosen=(path.name, checkpoint.identity(path)))
        except (ValueError, OSError) as error:
            return Claim(data, error)

    def release(self) -> None:
        """Let others claim it."""
        if self._lock is not None:
            self._lock.release()

    def newest(self) -> Path | None:
        """The checkpoint of the highest step."""
        return checkpoint.newest(self._checkpoints)

    def resume(self, of_ranks: Sequence[Claim], model: AlexNet) -> dict[str, Any] | None:
        """What the checkpoint that the main rank has chosen holds for `model`; None without one.

        ValueError or OSError where it has refused the folder. CheckpointError where the checkpoint
        is of other images or of another network, or can't be opened here.
        """
        _, refused, chosen = of_ranks[0]
        if refused is not None:
            raise refused
        if chosen is None:
            return None
        path = self._checkpoints / chosen[0]
        saved = self._saved or checkpoint.load_checked(path, chosen[1])
        self._saved = None
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

    @staticmethod
    def num_bytes(gathered: dict[str, Any]) -> int:
        """What a checkpoint of it takes."""
        return checkpoint.num_bytes(gathered)

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
        self.best = Best(**saved["best"])
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


class Change(NamedTuple):
    """An option with two values, both in plain terms."""

    option: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.option}: {self.old} -> {self.new}"


class Resumption(NamedTuple):
    """A run that resumes from a checkpoint with another config."""

    old: Config
    new: Config
    saved: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.saved["schedule"]["completed"]


class Rule(NamedTuple):
    """When an option may change in mid-run; without `allows`, always: it changes no result."""

    when: str
    allows: Callable[[Resumption], bool] | None = None


def _keeps_lr(run: Resumption) -> bool:
    """Whether a plateau schedule becomes a multistep one with the learning rate of now."""
    if (run.old.optim.schedule, run.new.optim.schedule) != ("plateau", "multistep"):
        return False
    rates = schedule(run.new.optim, run.new.train.epochs)
    rates.restore(run.saved["schedule"])
    return rates.lr == run.saved["lr"]


def _keeps_past_lr(run: Resumption) -> bool:
    """Whether the epochs so far would have had the same learning rates in a longer run."""
    old, new = (schedule(run.old.optim, one.train.epochs) for one in (run.old, run.new))
    for epoch in range(run.epoch + 1):
        for one in (old, new):
            one.restore({**run.saved["schedule"], "completed": epoch})
        if old.lr != new.lr:
            return False
    return run.new.train.epochs >= run.epoch


def _keeps_milestones(run: Resumption) -> bool:
    old, new = (
        sorted(epoch for epoch in config.optim.milestones if epoch <= run.epoch)
        for config in (run.old, run.new)
    )
    return _keeps_lr(run) or (run.new.optim.schedule == "multistep" and old == new)


def _keeps_lr_at(run: Resumption) -> bool:
    old, new = (
        sorted(tuple(pair) for pair in config.optim.lr_at if pair[0] <= run.epoch)
        for config in (run.old, run.new)
    )
    return old == new


MAY_CHANGE = {
    "run.*": Rule("at any time"),
    "data.root": Rule("at any time; the images must be the same"),
    "data.num_threads": Rule("at any time"),
    "data.max_bad_fraction": Rule("at any time"),
    "train.epochs": Rule(
        "to no fewer than are completed; not where the schedule depends on it (exponential)",
        _keeps_past_lr,
    ),
    "optim.milestones": Rule("those still to come, with the multistep schedule", _keeps_milestones),
    "optim.lr_at": Rule("those still to come", _keeps_lr_at),
    "optim.schedule": Rule(
        "from plateau to multistep, whose past milestones give the learning rate of now", _keeps_lr
    ),
}
"""All that may change in a run's folder; docs/train.md has the same table."""


def claim(folder: Path, config: Config) -> BaseFileLock:
    """Make `folder` the run's, or resume it; the lock is held as long as the returned object lives.

    Options may differ from the run's as MAY_CHANGE has it: `changes.txt` keeps a record.
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
    try:
        if newest is not None:
            _check_changes(folder, config)
        # What a writer that was killed left behind.
        for leftover in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:
            leftover.unlink()
        with atomic_write(path) as file:
            file.write(to_yaml(config).encode())
    except BaseException:
        lock.release()
        raise
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
    """The config of the run in `folder`: of its newest sound checkpoint, else of its config.yaml.

    ConfigError where none can be read, VersionError where another version has written it.
    """
    path = folder / "config.yaml"
    try:
        sound = checkpoint.newest_sound(folder / "checkpoints")
    except checkpoint.VersionError:
        raise
    except checkpoint.CheckpointError:
        sound = None
    if sound is None and not path.exists():
        raise ConfigError(f"{folder} holds no run; expected a run's folder, such as runs/alexnet")
    try:
        return from_dict(sound[1]["config"] if sound else from_file(str(path)))
    except ConfigError as error:
        raise ConfigError(
            f"{path} can't be read as the config of a run ({error}); choose another folder"
        ) from error


def changed_options(old: Config, new: Config) -> list[Change]:
    """Options that differ and change results."""
    before, after = (
        {key: _set(value) for key, value in options(one).items()} for one in (old, new)
    )
    return [
        Change(key, before[key], value)
        for key, value in after.items()
        if before[key] != value and not _is_free(key)
    ]


def check_same_run(folder: Path, config: Config, fingerprint: str) -> None:
    """ValueError where `folder` holds a run of another config or of other images."""
    path = checkpoint.named(folder)
    if not path.is_file():
        return
    changed = list(map(str, changed_options(read_config(folder), config)))
    if checkpoint.load(path)["dataset"] != fingerprint:
        changed.append("the images")
    if changed:
        raise ValueError(
            f"{folder} was trained otherwise ({'; '.join(changed)}); choose an --out elsewhere"
        )


def _set(value: Any) -> Any:
    """The value; of numbers by layer, those that are set."""
    if not isinstance(value, dict):
        return value
    return {layer: number for layer, number in value.items() if number is not None}


def _is_free(option: str) -> bool:
    rule = MAY_CHANGE.get(option) or MAY_CHANGE.get(option.partition(".")[0] + ".*")
    return rule is not None and rule.allows is None


def _check_changes(folder: Path, config: Config) -> None:
    """ConfigError unless the run so far would have been the same with `config`; notes changes.

    What ran so far is in the checkpoint; anybody may have edited config.yaml.
    """
    found = checkpoint.newest_sound(folder / "checkpoints")
    if found is None:
        return
    old = from_dict(found[1]["config"])
    changes = changed_options(old, config)
    if not changes:
        return
    run = Resumption(old, config, found[1])
    refused = []
    for change in changes:
        rule = MAY_CHANGE.get(change.option)
        if rule is None:
            refused.append(str(change))
        elif rule.allows is not None and not rule.allows(run):
            refused.append(f"{change}, which may change: {rule.when}")
    if refused:
        raise ConfigError(
            f"{folder} holds a run with another config ({'; '.join(refused)}); "
            "give the same values to resume it, or another --run.dir to start afresh"
        )
    with open(folder / "changes.txt", "a") as file:
        file.write(f"after epoch {run.epoch}: {'; '.join(map(str, changes))}\n")
