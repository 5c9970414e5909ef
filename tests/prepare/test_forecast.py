"""A store that does not fit is noticed after a thousand images."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from alexnet_dali.pipeline.prepare import forecast
from alexnet_dali.pipeline.prepare.forecast import Forecast


@pytest.fixture
def disk(monkeypatch):
    """A disk with so many bytes and files free, in blocks of 4096."""

    def set_free(num_bytes, files=10**9):
        usage = SimpleNamespace(free=num_bytes)
        about = SimpleNamespace(f_frsize=4096, f_files=2 * files, f_favail=files)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        monkeypatch.setattr(os, "statvfs", lambda folder: about)

    return set_free


def store(tmp_path, in_shards, total=10_000, skipped=0):
    """The first 1,024 images, 5,000 bytes each."""
    found = Forecast(tmp_path, total, in_shards)
    found.skip(skipped)
    for _ in range(16):
        found.add(64, 64 * [5_000])
    return found


def test_what_all_will_take_is_said_once(disk, tmp_path, capsys):
    """5 kB each in shards; as a file of its own, an image takes two blocks."""
    expected = "store: 5.0 GB, 5.0 GB of them still to be written; 10.0 GB are free"
    disk(10**10)
    store(tmp_path, in_shards=True, total=1_000_000).add(64, 64 * [5_000])
    assert capsys.readouterr().err.splitlines() == [expected]
    store(tmp_path, in_shards=False, total=1_000_000)
    assert "store: 8.2 GB, 8.2 GB" in capsys.readouterr().err


@pytest.mark.parametrize("in_shards, needed", [(True, 8_976 * 5_000), (False, 8_976 * 8_192)])
def test_one_that_does_not_fit_ends_with_an_error_that_keeps_what_is_done(
    in_shards, needed, disk, tmp_path
):
    disk(needed)
    store(tmp_path, in_shards)
    disk(needed - 1)
    with pytest.raises(OSError, match="the store does not fit") as caught:
        store(tmp_path, in_shards)
    assert caught.value.errno == errno.ENOSPC
    store(tmp_path, in_shards, skipped=100)  # were stored before


def test_so_do_more_files_than_the_file_system_has_room_for(disk, tmp_path):
    disk(10**12, files=8_975)
    store(tmp_path, in_shards=True)
    with pytest.raises(OSError, match=r"8976 files are to come.*8975 \(df -i\); --shards"):
        store(tmp_path, in_shards=False)


def test_a_preparation_that_does_not_fit_can_go_on(disk, tmp_path, monkeypatch, capsys):
    from tests.images import prepare

    monkeypatch.setattr(forecast, "_AFTER", 10)
    disk(1000)
    options = ("--resize", "64", "--shards")
    with pytest.raises(OSError, match="the store does not fit"):
        prepare(tmp_path, dict.fromkeys("ab", 40), dict.fromkeys("ab", 8), *options)
    assert (tmp_path / ".prepared.unfinished").is_dir()
    disk(10**12)
    prepare(tmp_path, dict.fromkeys("ab", 40), dict.fromkeys("ab", 8), *options)
    assert "store: " in capsys.readouterr().err
