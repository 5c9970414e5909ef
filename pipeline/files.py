"""Files and folders that appear whole or not at all."""

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its name when the block ends well.

    The bytes are on disk before the name is, so a crash leaves the old file or the new one, never a part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path` that takes its name when the block ends well; `path` may not hold anything yet."""
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


@contextmanager
def resumable_folder(path: Path, identity: str) -> Iterator[tuple[Path, Path]]:
    """(folder, notes): `folder` takes the name `path` when the block ends well, and `notes` goes.

    A block that is killed finds both as it left them when it comes again for the same `identity`; one that ends in a
    ValueError does not. ValueError where something else, or someone else, is at it.
    """
    work = path.with_name(f".{path.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being made by another process; wait for it, or choose another name") from None
        except OSError as error:
            raise ValueError(
                f"{path} can't be locked against other processes ({error}): its file system has no flock; mount it "
                "with locks, or choose a folder elsewhere"
            ) from None
        begun_for = work / "identity"
        if begun_for.exists() and begun_for.read_text() != identity:
            raise ValueError(
                f"{work} holds an unfinished {path.name} that was begun with other files or options; "
                f"go on with those, or remove it: rm -r {shlex.quote(str(work))}"
            )
        folder, notes = work / "folder", work / "notes"
        if not folder.exists():
            shutil.rmtree(notes, ignore_errors=True)  # they tell of what is no longer there
        folder.mkdir(exist_ok=True)
        notes.mkdir(exist_ok=True)
        with atomic_write(begun_for) as file:
            file.write(identity.encode())
        try:
            yield folder, notes
        except ValueError:
            _discard(work)
            raise
        os.sync()  # may be a million files
        os.rename(folder, path)
        _discard(work)
    _sync(path.parent)


def _discard(work: Path) -> None:
    """Notes go first: should this be cut short, they must not tell of files that are gone."""
    shutil.rmtree(work / "notes")
    shutil.rmtree(work)


def _sync(path: Path) -> None:
    """Make what `path` holds (bytes of a file, names in a folder) survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
