"""How files are examined: together where that is cheaper, with the same findings.

Examining must also end: where the disk fails, and where the command is killed.
"""

import errno
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dali.pipeline import decode
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.prepare import examine, workers
from alexnet_dali.pipeline.prepare.examine import Task
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools import cli, prep_imagenet
from tests.images import smooth_image, write_class_folders
from tests.processes import ROOT, Started, running


@pytest.fixture
def good(tmp_path):
    """Sound image files of several kinds."""
    rng = np.random.default_rng(0)
    picture = smooth_image(rng, 60, 90)
    picture.save(tmp_path / "colour.jpg")
    picture.convert("L").save(tmp_path / "grey.jpg")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.save(tmp_path / "progressive.jpg", progressive=True)
    picture.save(tmp_path / "picture.png")
    picture.save(tmp_path / "picture.webp")
    turned = Image.Exif()
    turned[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    return source(tmp_path)


def source(folder):
    names = sorted(path.name for path in folder.iterdir())
    return Source.of(folder, names, [0] * len(names))


def test_files_opened_together_have_the_same_pixels_as_one_by_one(good, monkeypatch):
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    together = examine._open_together(good)
    assert len(together) == 7
    for index, (header, pixels) in enumerate(together):
        assert header == decode.look(good.content(index))
        np.testing.assert_array_equal(pixels, decode.decode(good.content(index)))
    assert together[list(good.names).index("turned.jpg")].pixels.shape == (90, 60, 3)


@pytest.mark.parametrize("odd", ["text", "gif", "cut", "many pixels", "a word"])
def test_files_are_not_opened_together_if_one_is_odd_or_they_are_too_large(good, odd, monkeypatch):
    monkeypatch.setattr(examine, "_decoder_said", lambda: "a warning" if odd == "a word" else "")
    if odd == "text":
        (good.root / "x.jpg").write_text("no image")
    elif odd == "gif":
        Image.new("RGB", (20, 20)).save(good.root / "x.gif")
    elif odd == "cut":
        (good.root / "x.jpg").write_bytes((good.root / "colour.jpg").read_bytes()[:400])
    elif odd == "many pixels":
        monkeypatch.setattr(examine, "_PIXELS_TOGETHER", 20_000)
    assert examine._open_together(source(good.root)) == []


class Broken(Source):
    """Files on a disk whose reads fail with an error."""

    def content(self, index):
        raise OSError(int(self.root.name), os.strerror(int(self.root.name)))


def test_a_failing_disk_stops_the_command_and_a_missing_file_is_rejected(monkeypatch):
    """Otherwise, a network that is down for a minute would have all remaining files rejected."""
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    for failure in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOTCONN):
        files = Broken.of(Path(str(failure)), ["a.jpg"], [0])
        with pytest.raises(
            OSError, match=r"a\.jpg can't be read now .*; rerun the command to resume"
        ):
            Task(files, False, None).run()
    for own in (errno.ENOENT, errno.EACCES):
        files = Broken.of(Path(str(own)), ["a.jpg"], [0])
        found, stored, sums = Task(files, False, None).run()
        assert found.reasons() == {0: os.strerror(own)} and not found.usable().any()
        assert stored == [] and sums is None


class Late(Source):
    """A file that was not there before it was read."""

    def stamp(self, index):
        return -1, -1


def test_a_file_that_appears_late_is_rejected_and_the_list_keeps_its_lengths(good, monkeypatch):
    """Its length is not known; a list of lengths with a gap would shift those of all others."""
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    found, _, _ = Task(Late.of(good.root, ["colour.jpg"], [0]), False, None).run()
    assert found.reasons() == {0: os.strerror(errno.ENOENT)}


class Pause(Task):
    """A task that says which process it runs in, and does not end."""

    def run(self):
        with atomic_write(self.files) as file:
            file.write(str(os.getpid()).encode())
        time.sleep(100)


def pause(told):
    with workers.Workers() as pool:
        list(pool.results([Pause(told, False, None)]))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = Started(pause, tmp_path / "told")
    while not (tmp_path / "told").exists():
        assert parent.poll() is None, parent.errors()
        time.sleep(0.02)
    worker = int((tmp_path / "told").read_text())
    assert running(worker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(worker)


def prep_with_a_decoder_that_crashes(words):
    """Workers are forked here: they have the decoder of tests/rehearsal/machine."""
    machine = runpy.run_path(str(ROOT / "tests/rehearsal/machine/sitecustomize.py"))
    machine["_crash_on_some_files"](examine)
    workers._CONTEXT = multiprocessing.get_context("fork")
    sys.argv = ["prep", *words]
    cli.run(prep_imagenet.main)


def prep_on_a_machine_that_crashes(folder, *more):
    """The command's exit status and what it printed."""
    words = ["--train", folder / "train", *more, "--val", folder / "val", "--out", folder / "out"]
    process = Started(prep_with_a_decoder_that_crashes, list(map(str, words)))
    said = "".join(process.communicate())
    return process.returncode, said


def test_files_that_crash_the_decoder_are_rejected_and_no_others(tmp_path):
    """Among them two neighbours, the first file and the last."""
    write_class_folders(tmp_path / "train", {"a": 70, "b": 70}, sides=(20, 40))
    write_class_folders(tmp_path / "val", {"a": 2, "b": 2}, sides=(20, 40))
    files = sorted((tmp_path / "train").glob("*/*"))
    chosen = [0, 1, 90, 139]
    for index in chosen:
        with open(files[index], "ab") as file:
            file.write(b"KILLS THE DECODER")
    status, said = prep_on_a_machine_that_crashes(tmp_path, "--resize", "32")
    assert status == 0 and "4 files rejected" in said, said
    lines = (tmp_path / "out/rejected.txt").read_text().splitlines()
    assert lines == [f"{files[i]}\tthe decoder crashes on it (SIGSEGV)" for i in chosen]
    assert len(Dataset.open(tmp_path / "out").train) == 136


def test_where_the_system_kills_for_memory_no_file_is_rejected_and_work_is_kept(tmp_path):
    write_class_folders(tmp_path / "train", {"a": 40, "b": 40}, sides=(20, 40))
    write_class_folders(tmp_path / "val", {"a": 2, "b": 2}, sides=(20, 40))
    with open(tmp_path / "train/b/020.jpg", "ab") as file:
        file.write(b"TAKES ALL MEMORY")
    status, said = prep_on_a_machine_that_crashes(tmp_path)
    assert status == 2 and "was killed, as the system does where memory runs out" in said
    assert "b/020.jpg" in said and not (tmp_path / "out").exists()
    assert (tmp_path / ".out.unfinished/notes").is_dir()


def test_a_long_path_for_temporary_files_is_no_obstacle(tmp_path):
    """The path of a socket has 107 bytes at most."""
    write_class_folders(tmp_path / "train", {"a": 2, "b": 2})
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = [sys.executable, "-m", "alexnet_dali.tools", "prep", "--hold-out", "0.5"]
    command += ["--train", str(tmp_path / "train"), "--out", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(long)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert len(Dataset.open(tmp_path / "out").train) == 2
