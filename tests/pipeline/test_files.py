"""What survives a crash can not be tested; what the kernel is asked for can."""

import ctypes
import errno
import os
import stat
from types import SimpleNamespace

import pytest

from alexnet_dali.pipeline.system import files
from alexnet_dali.pipeline.system.files import (
    atomic_folder,
    atomic_write,
    resumable_folder,
    sync_file_system,
)


def plant(monkeypatch, syncfs):
    """A C library whose syncfs is the function given."""
    library = SimpleNamespace(syncfs=syncfs) if syncfs else SimpleNamespace()
    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: library)
    monkeypatch.setattr(os, "sync", lambda: pytest.fail("everybody's disks were flushed"))


def test_only_the_file_system_of_the_folder_is_flushed(tmp_path, monkeypatch):
    seen = []

    def syncfs(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), descriptor))
        return 0

    plant(monkeypatch, syncfs)
    sync_file_system(tmp_path)
    ((path, descriptor),) = seen
    assert path == str(tmp_path)
    with pytest.raises(OSError):  # it was closed
        os.fstat(descriptor)


def test_a_write_that_failed_surfaces_and_the_folder_does_not_appear(tmp_path, monkeypatch):
    def syncfs(descriptor):
        ctypes.set_errno(errno.EIO)
        return -1

    plant(monkeypatch, syncfs)
    with pytest.raises(OSError) as caught, resumable_folder(tmp_path / "out", "same"):
        pass
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(tmp_path / ".out.unfinished")
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.unfinished/folder").is_dir()


def test_the_kernels_own_error_has_its_number(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "open", lambda path, flags: 1_000_000)
    monkeypatch.setattr(os, "close", lambda descriptor: None)
    with pytest.raises(OSError) as caught:
        sync_file_system(tmp_path)
    assert caught.value.errno == errno.EBADF


def test_without_syncfs_everything_is_flushed(tmp_path, monkeypatch):
    called = []
    plant(monkeypatch, None)
    monkeypatch.setattr(os, "sync", lambda: called.append(True))
    sync_file_system(tmp_path)
    assert called


@pytest.fixture
def fail_fsync(monkeypatch):
    """Have fsync of folders, or of files, fail."""
    fsync = os.fsync
    files._warn_of_crashes.cache_clear()

    def fail(number, of_folders):
        def failing(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush_folders_is_warned_of_once(
    number, fail_fsync, tmp_path, capsys
):
    fail_fsync(number, of_folders=True)
    for content in (b"one", b"two"):
        with atomic_write(tmp_path / "file") as file:
            file.write(content)
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "x").write_bytes(b"x")
    with resumable_folder(tmp_path / "out", "same") as (folder, _):
        (folder / "y").write_bytes(b"y")
    assert (tmp_path / "file").read_bytes() == b"two" and (tmp_path / "folder/x").exists()
    assert (tmp_path / "out/y").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: this file system can't flush folders")


@pytest.mark.parametrize("of_folders, named", [(True, "{folder}"), (False, "{folder}/file")])
def test_any_other_error_of_a_flush_names_its_path(of_folders, named, fail_fsync, tmp_path):
    fail_fsync(errno.EIO, of_folders)
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == named.format(folder=tmp_path)
