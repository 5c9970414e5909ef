"""Files and folders that appear whole or not at all."""

import ctypes
import errno
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

_CANT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that can't flush folders: CIFS, FUSE, VirtualBox, drives in WSL."""

_CANT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that have no locks: often the same."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; it takes that name when the block ends without an error.

    The bytes are on disk before the name is, so a crash leaves the old file or the new one, never a
    part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing_to(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Let the system's error say where a write, or a lock, failed: it does not."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path`; it takes that name when the block ends without an error.

    `path` may not hold anything yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def locked(path: Path, in_use: str) -> BaseFileLock:
    """Hold a lock on `path`, until it is released or this process ends.

    A file system without locks gets a file that only one process can make; where it was killed, the
    next one on the same machine takes it. ValueError, with the words `in_use`, where another
    process holds the lock; OSError where `path` can't be written.
    """
    owner = path.with_name(f"{path.name}-owner")
    try:
        lock = _acquired(path)
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except Timeout as error:
        who = owner.read_text() if owner.exists() else "another process"
        held = error.lock_file
        gone = "" if held == str(path) else f"; if that is gone, rm {shlex.quote(held)}"
        raise ValueError(f"{in_use} ({who}), or choose another folder{gone}") from None
    return lock


def _acquired(path: Path) -> BaseFileLock:
    lock: BaseFileLock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        with writing_to(path):
            lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _CANT_LOCK:
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}-held"), timeout=0)
        lock.acquire()
    return lock


@contextmanager
def resumable_folder(path: Path, identity: str) -> Iterator[tuple[Path, Path]]:
    """(folder, notes): on success `folder` takes the name `path`, and `notes` is deleted.

    Resumable: after a kill, a rerun with the same `identity` finds both as they were. After a
    ValueError it starts afresh. ValueError where another process is making the same folder, or it
    was begun with another identity.
    """
    work = path.with_name(f".{path.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    lock = locked(work / "lock", f"{path} is being made by another process; wait for it")
    try:
        folder, notes = _begin(work, path.name, identity)
        try:
            yield folder, notes
        except ValueError:
            _discard(work)
            raise
        sync_file_system(work)  # may be a million files
        os.rename(folder, path)
        _discard(work)
    finally:
        lock.release()
    _sync(path.parent)


def sync_file_system(path: Path) -> None:
    """Make all that was written to the file system of `path` survive a crash of the machine.

    Disks of other file systems, which other people may be using, are left alone. OSError where one
    of the writes failed.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # glibc and musl have it
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            number = ctypes.get_errno()
            if number in _CANT_SYNC:
                os.sync()
                return
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _begin(work: Path, name: str, identity: str) -> tuple[Path, Path]:
    """The folder and the notes in `work`, new or as an earlier process left them."""
    begun_for = work / "identity"
    if begun_for.exists() and begun_for.read_text() != identity:
        raise ValueError(
            f"{work} holds an unfinished {name} that was begun with other files or options; "
            f"resume it with those, or remove it: rm -r {shlex.quote(str(work))}"
        )
    folder, notes = work / "folder", work / "notes"
    if not folder.exists():
        shutil.rmtree(notes, ignore_errors=True)  # the notes tell of files that are no longer there
    folder.mkdir(exist_ok=True)
    notes.mkdir(exist_ok=True)
    with atomic_write(begun_for) as file:
        file.write(identity.encode())
    return folder, notes


def _discard(work: Path) -> None:
    """Delete notes first: if this is interrupted, they must not tell of files that are gone."""
    shutil.rmtree(work / "notes")
    shutil.rmtree(work)


def _sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive a crash of the machine.

    OSError, which names `path`, where that fails. A file system that can't is warned of once: there
    a crash of the machine, but not of a process, may lose names.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EBADF, *_CANT_SYNC):
            raise OSError(error.errno, error.strerror, str(path)) from error
        _warn_of_crashes()
    finally:
        os.close(descriptor)


@cache
def _warn_of_crashes() -> None:
    print(
        "warning: this file system can't flush folders: if the machine crashes (power, kernel), "
        "the newest files may be lost",
        file=sys.stderr,
        flush=True,
    )
