"""The folder of a run: one process at a time writes to it, and always with the same config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from filelock import FileLock

from alexnet_dali.pipeline.files import atomic_write, locked
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.later import begun_alike, goes_on
from alexnet_dali.train.config import Config, ConfigError, differing_keys, from_dict, to_yaml

_T = TypeVar("_T")

_LOCK = ".lock"


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
    may_go_on = new_schedule and goes_on(folder, old, config, epoch)
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
        return begun_alike(old.optim.lr_at, new.optim.lr_at, epoch)
    if name == "optim.milestones":
        earlier = [
            [drop for drop in config.optim.milestones if drop <= epoch] for config in (old, new)
        ]
        return new.optim.schedule == "multistep" and earlier[0] == earlier[1]
    return False
