"""The folder of a run: one process at a time writes to it, and what was trained stays true."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock

from alexnet_dali.pipeline.files import atomic_write, locked
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import Config, ConfigError, from_dict, options, to_yaml
from alexnet_dali.train.optim import schedule

_LOCK = ".lock"


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
        "to no fewer than are completed; not with the exponential schedule, which depends on it",
        lambda run: run.new.train.epochs >= run.epoch and run.new.optim.schedule != "exponential",
    ),
    "optim.milestones": Rule("those still to come, with the multistep schedule", _keeps_milestones),
    "optim.lr_at": Rule("those still to come", _keeps_lr_at),
    "optim.schedule": Rule(
        "from plateau to multistep, whose past milestones give the learning rate of now", _keeps_lr
    ),
}
"""All that may change in a run's folder; docs/train.md has the same table."""


def claim(folder: Path, config: Config) -> FileLock:
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
    if newest is not None:
        _check_changes(folder, config)
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
    """The config of the run in `folder`; where config.yaml is lost, of its newest checkpoint.

    ConfigError where none can be read, VersionError where another version has written it.
    """
    path, checkpoints = folder / "config.yaml", folder / "checkpoints"
    try:
        sound = None if path.is_file() else checkpoint.newest_sound(checkpoints)
        return from_dict(sound[1]["config"] if sound else yaml.safe_load(path.read_text()))
    except checkpoint.VersionError:
        raise
    except Exception as error:  # yaml raises many kinds for a text that is damaged
        newest = checkpoint.newest(checkpoints)
        if newest is not None:
            checkpoint.check_origin(newest)
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


def _set(value: Any) -> Any:
    """The value; of numbers by layer, those that are set."""
    if not isinstance(value, dict):
        return value
    return {layer: number for layer, number in value.items() if number is not None}


def _is_free(option: str) -> bool:
    rule = MAY_CHANGE.get(option) or MAY_CHANGE.get(option.partition(".")[0] + ".*")
    return rule is not None and rule.allows is None


def _check_changes(folder: Path, config: Config) -> None:
    """ConfigError unless the run so far would have been the same with `config`; notes changes."""
    old = read_config(folder)
    changes = changed_options(old, config)
    found = checkpoint.newest_sound(folder / "checkpoints") if changes else None
    if found is None:
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
