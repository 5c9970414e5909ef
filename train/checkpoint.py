"""Checkpoints: one file with the whole network, the same for any number of ranks.

A file is there whole, or not at all.
"""

import re
from pathlib import Path
from typing import Any

import torch

from pipeline.files import atomic_write

FORMAT = 1
_KEYS = {
    "format",
    "step",
    "model",
    "momentum",
    "lr",
    "schedule",
    "intervals",
    "config",
    "classes",
    "stats",
    "dataset",
}


class CheckpointError(ValueError):
    """A checkpoint that can't be used, and what to do about it."""


def save(folder: Path, state: dict[str, Any], keep: int) -> None:
    """Write `step-NNNNNNNNNN.pt` into `folder` and remove all but the `keep` newest."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"step-{state['step']:010d}.pt") as file:
        torch.save({"format": FORMAT, **state}, file)
    for old in _all(folder)[:-keep]:
        old.unlink()


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, if there is one."""
    found = _all(folder)
    return found[-1] if found else None


def named(path: Path) -> Path:
    """The checkpoint that `path` names: itself, or a run folder's newest one."""
    return newest(path / "checkpoints") or path / "checkpoints/step-*.pt" if path.is_dir() else path


def load(path: Path) -> dict[str, Any]:
    """The state that `save` was given, on the CPU; CheckpointError for any other file."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected a checkpoint such as runs/NAME/checkpoints/step-*.pt"
        )
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a file that is not its own
        raise CheckpointError(
            f"{path}: not a checkpoint of this project, or damaged ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or state.keys() != _KEYS or state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this project, or of another version (format {FORMAT})"
        )
    return state


def _all(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{10}\.pt", path.name)
    )
