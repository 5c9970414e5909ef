"""How files are examined: together where that is cheaper, with the same findings.

Examining must also end: where the disk fails, and where the command is killed.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import decode
from pipeline.prepare import examine
from pipeline.prepare.ledger import Finding
from pipeline.prepare.sources import Source
from tests.images import smooth_image
from tests.processes import running

ROOT = Path(__file__).parents[2]


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
    return Source(folder, names, [0] * len(names))


def test_files_decoded_together_have_the_same_pixels_as_one_by_one(good):
    together = examine._decode_together(good)
    assert len(together) == 7
    for index, (data, pixels) in enumerate(together):
        np.testing.assert_array_equal(data, good.content(index))
        np.testing.assert_array_equal(pixels, decode.decode(data))
    assert together[good.names.index("turned.jpg")][1].shape == (90, 60, 3)


@pytest.mark.parametrize("odd", ["text", "gif", "cut", "many pixels"])
def test_files_are_not_decoded_together_if_one_is_odd_or_they_are_too_large(good, odd, monkeypatch):
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    if odd == "text":
        (good.root / "x.jpg").write_text("no image")
    elif odd == "gif":
        Image.new("RGB", (20, 20)).save(good.root / "x.gif")
    elif odd == "cut":
        (good.root / "x.jpg").write_bytes((good.root / "colour.jpg").read_bytes()[:400])
    else:
        monkeypatch.setattr(examine, "_PIXELS_TOGETHER", 20_000)
    assert examine._decode_together(source(good.root)) == []


class Broken(Source):
    """Files on a disk whose reads fail with an error."""

    def content(self, index):
        raise OSError(int(self.root.name), os.strerror(int(self.root.name)))


def test_a_failing_disk_stops_the_command_and_a_missing_file_is_rejected(monkeypatch):
    """Otherwise, a network that is down for a minute would have all remaining files rejected."""
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    for failure in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOTCONN):
        files = Broken(Path(str(failure)), ["a.jpg"], [0])
        with pytest.raises(
            OSError, match=r"a\.jpg can't be read now .*; rerun the command to resume"
        ):
            examine._examine_run(files, False, None)
    for own in (errno.ENOENT, errno.EACCES):
        files = Broken(Path(str(own)), ["a.jpg"], [0])
        finding = Finding("a.jpg", None, os.strerror(own))
        assert examine._examine_run(files, False, None) == ([(finding, b"")], None)


def test_workers_end_when_their_parent_is_killed():
    script = "import os, time; from pipeline.prepare.examine import workers\n"
    script += "if __name__ == '__main__':\n with workers() as pool:\n"
    script += "  print(pool.submit(os.getpid).result(), flush=True); time.sleep(100)"
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    worker = int(parent.stdout.readline())
    assert running(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(worker)
