"""Checkpoints: one file with the whole network, the same for any number of ranks.

A file is there whole, or not at all.
"""

import errno
import math
import os
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.system.faults import the_disks_own
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.train.checkpoints import checksum
from alexnet_dali.train.checkpoints.content import FORMAT, TARGETS, what_is_wrong

BEST = "best.pt"
"""The name of the checkpoint of the epoch with the lowest validation error."""

_DISK, _SERVER, _PAUSE = 10.0, 90.0, 1.0
"""Seconds in which a file that can't be read is tried again, and between two attempts. A server may
show other machines a new one a minute late."""

T = TypeVar("T")

_HEADER = {"format": FORMAT, "targets": TARGETS}
_OURS = {"step", "model", "momentum"}
"""Keys by which checkpoints of every version are known."""

_TORCHVISIONS = {"features.0.weight", "classifier.6.weight"}
"""Keys by which the weights of torchvision's AlexNet are known."""


class CheckpointError(ValueError):
    """A checkpoint that can't be used, and what to do about it."""


class VersionError(CheckpointError):
    """A checkpoint that another version of this project has written."""


@dataclass
class Best:
    """The lowest top-1 error on the validation images so far, after which epoch, and the last one.

    Every checkpoint holds it, so it is right after any kill.
    """

    top1_error: float = math.inf
    epoch: int = 0
    last_error: float = math.inf

    def note(self, top1_error: float, epoch: int) -> None:
        """Take note of the error after `epoch`; of equal ones, the first is the best."""
        self.last_error = top1_error
        if top1_error < self.top1_error:
            self.top1_error, self.epoch = top1_error, epoch

    def is_of(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the checkpoint of this step is the best."""
        return self.epoch > 0 and step == self.epoch * steps_per_epoch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def report(self, checkpoints: Path) -> str:
        """For the run's last line."""
        if not self.epoch:
            return ""
        path = checkpoints / BEST
        where = f" ({path})" if path.exists() else ""
        return (
            f"best validation top-1 error {self.top1_error:.2%} after epoch {self.epoch}{where}, "
            f"last {self.last_error:.2%}; "
        )


def save(folder: Path, state: dict[str, Any], keep: int, is_best: bool = False) -> None:
    """Write `step-NNNNNNNNNN.pt` into `folder` and remove all but the `keep` newest.

    `best.pt` becomes another name of it where it `is_best`.

    OSError, which names the newest, where there is no space or the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state['step']:010d}.pt"
    needed, free = num_bytes(state), shutil.disk_usage(folder).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with atomic_write(path) as file:
            torch.save({**_HEADER, **state}, file)
            checksum.seal(file)
    except (OSError, RuntimeError) as error:
        raise OSError(_unwritten(path, needed, error)) from error
    if is_best:
        keep_best(path)
    for old in [path for path in _all(folder) if path.is_file()][:-keep]:
        old.unlink()


def keep_best(path: Path) -> None:
    """Let `best.pt` beside the checkpoint at `path` be that checkpoint: at once, or not at all.

    It takes no space until the checkpoint is removed, except where files can't have two names.
    """
    best = path.with_name(BEST)
    temporary = best.with_name(f".{BEST}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        with open(path, "rb") as source, atomic_write(best) as file:
            shutil.copyfileobj(source, file)
        return
    os.replace(temporary, best)
    temporary.unlink(missing_ok=True)  # where it was that file already, the system keeps both names


def _unwritten(path: Path, needed: int, error: OSError | RuntimeError) -> str:
    """Why a checkpoint can't be written, which is the newest, and what to do."""
    then, last = f"once {path.parent} can be written,", newest(path.parent)
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__  # torch hides the system's error behind one of its own
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        why += f"; it takes {needed / 1e6:.0f} MB"
        then = "raise the limit (ulimit -f, or FAT's 4 GB) and"
    if isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        why += f"; it takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        then = "make room and"
    stands = f"the newest checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"{path} can't be written ({why}); {stands}; {then} rerun the command to resume"


def num_bytes(state: Any) -> int:
    """What the tensors in a state take."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    return sum(map(num_bytes, state.values())) if isinstance(state, dict) else 0


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, if there is one."""
    found = _all(folder)
    return found[-1] if found else None


def named(path: Path) -> Path:
    """The checkpoint that `path` names: itself, or a run folder's newest one."""
    return newest(path / "checkpoints") or path / "checkpoints/step-*.pt" if path.is_dir() else path


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.stem.removeprefix("step-"))


def how_to_resume(folder: Path) -> str:
    """What a run that ends early says at last; its checkpoints are in `folder`."""
    last = newest(folder)
    if last is None:
        return "rerun the same command; there is no checkpoint yet, so it begins afresh"
    return f"rerun the same command to resume from step {step_of(last)}"


def newest_sound(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest checkpoint that can be trusted, its state, and why newer ones can't, if any.

    None where there is no checkpoint; CheckpointError where all of them are damaged, or one of them
    is of another version; OSError where the disk or its server fails.
    """
    damaged: list[str] = []
    for path in reversed(_all(folder)):
        try:
            return path, patiently(partial(load, path), OSError, _DISK), damaged
        except VersionError:
            raise
        except CheckpointError as error:
            damaged.append(str(error))
    if not damaged:
        return None
    raise CheckpointError(
        "\n".join(damaged) + f"\nno checkpoint in {folder} is sound; remove them to start afresh"
    )


def identity(path: Path) -> bytes:
    """The checksum of all checksums in a checkpoint, as no other one has it."""
    with zipfile.ZipFile(path) as archive:
        return archive.comment


def load_checked(path: Path, expected: bytes) -> dict[str, Any]:
    """The state of the checkpoint that another process has checked, by its identity.

    Its bytes are read as they are needed. CheckpointError where it is not there.
    """

    def read() -> dict[str, Any]:
        if identity(path) != expected:
            raise OSError(errno.ESTALE, "another checkpoint has its name")
        return _read(path)

    try:
        return patiently(read, Exception, _SERVER)
    except Exception as error:  # zipfile and torch raise many kinds
        raise CheckpointError(
            f"{path}, which rank 0 has read, can't be read on {socket.gethostname()} ({error}); "
            "run.dir must be the same folder on every machine"
        ) from error


def patiently(read: Callable[[], T], failure: type[Exception], seconds: float) -> T:
    """What `read` gives; after a `failure` it is tried again, for so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            return read()
        except failure:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def load(path: Path) -> dict[str, Any]:
    """The state that `save` was given, on the CPU; CheckpointError for any other file.

    Every byte is checked against its checksum. OSError where the disk or its server fails.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; expected a checkpoint's file")
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected a checkpoint such as runs/NAME/checkpoints/step-*.pt"
        )
    try:
        if damage := checksum.damage(path):
            raise CheckpointError(f"{path}: {damage}")
        return _read(path)
    except CheckpointError:
        check_origin(path)
        raise
    except OSError as error:
        raise OSError(
            f"{path} can't be read ({error.strerror}): its disk, or the server, fails; rerun the "
            "command to try again"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a file that is not its own
        if the_disks_own(error):
            raise
        raise CheckpointError(
            f"{path}: not a checkpoint of this project, or damaged ({type(error).__name__})"
        ) from error
    if wrong := what_is_wrong(state):
        raise CheckpointError(f"{path}: not a checkpoint of this project ({wrong})")
    return {key: value for key, value in state.items() if key not in _HEADER}


def check_origin(path: Path) -> None:
    """CheckpointError where the file is another project's network, with why it does not help here.

    VersionError where another version of this project has written it.
    """
    if path.suffix == ".caffemodel":
        raise CheckpointError(
            f"{path}: Caffe's weights, and not a checkpoint of this project; make a run of them: "
            "alexnet import-weights FILE --out RUN"
        )
    state = _unchecked(path)
    if state.keys() >= _TORCHVISIONS:
        raise CheckpointError(
            f"{path}: the weights of torchvision's AlexNet, which is another network: one column "
            "with other widths (64, 192, 384, 256, 256 kernels) and no response norm; train one "
            "here, or give a checkpoint of this project"
        )
    number, targets = state.get("format", 1), state.get("targets", TARGETS)
    if not state.keys() >= _OURS or type(number) is not int or not isinstance(targets, str):
        return
    if number == 1:
        raise VersionError(f"{path}: made by version 0.2, whose runs can't go on; train again")
    if number in range(FORMAT + 1, 100) or (number == FORMAT and targets != TARGETS):
        raise VersionError(
            f"{path}: made by a later version (format {number}, targets: {targets}); expected "
            f"format {FORMAT}, targets: {TARGETS}; use that version, or train again"
        )


def _unchecked(path: Path) -> dict[Any, Any]:
    """What a file of torch's holds, whosever it is; empty where it is none, or is damaged."""
    try:
        is_zip = zipfile.is_zipfile(path)  # torch's older files are none
        if is_zip and checksum.damage_of_members(path):
            return {}
        state = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except Exception:  # torch raises many kinds of errors for a file that is not its own
        return {}
    return state if isinstance(state, dict) else {}


def check_shapes(path: Path, full: dict[str, Tensor], model: AlexNet) -> None:
    """CheckpointError where the `full` network of the checkpoint at `path` is not like `model`."""
    own = model.own_columns[0].state_dict()
    found = {key: tuple(value.shape) for key, value in model.columns.split(full)[0].items()}
    expected = {key: tuple(value.shape) for key, value in own.items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise CheckpointError(
                f"{path} holds another network: {key} is {found.get(key)}, expected "
                f"{expected.get(key)}; choose the config it was trained with, or another --run.dir"
            )


def _all(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{10}\.pt", path.name)
    )
