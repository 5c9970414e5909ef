"""The folder of a run: one process at a time writes to it, and always with the same config."""

import fcntl
from pathlib import Path
from typing import IO

import yaml

from pipeline.files import atomic_write
from train import checkpoint
from train.config import Config, ConfigError, differing_keys, to_yaml


def claim(folder: Path, config: Config) -> IO[str]:
    """Make `folder` the run's, or go on with it; the file returned holds a lock for as long as it is open.

    ConfigError where the folder is something else's, is being written to, or has checkpoints of another config.
    """
    path = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose another --run.dir")
    if folder.exists() and any(folder.iterdir()) and not path.is_file():
        raise ConfigError(f"{folder} holds files, but no run (no config.yaml); choose another --run.dir")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    if checkpoint.newest(folder / "checkpoints") is not None:
        _check_same(path, config)
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")]:  # of a writer that was killed
        leftover.unlink()
    with atomic_write(path) as file:
        file.write(to_yaml(config).encode())
    return lock


def _lock(folder: Path) -> IO[str]:
    lock = open(folder / ".lock", "w")  # noqa: SIM115 - held as long as the run
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} is in use by another training that still runs; wait for it, or choose another --run.dir"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be locked against other trainings ({error}): its file system has no flock; mount it with "
            "locks, or choose a --run.dir elsewhere"
        ) from error
    return lock


def _check_same(path: Path, config: Config) -> None:
    try:
        changed = differing_keys(config, yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path} can't be read as the config of a run; choose another --run.dir") from error
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with another config ({'; '.join(changed)}); "
            "give the same values to go on with it, or another --run.dir to start afresh"
        )
