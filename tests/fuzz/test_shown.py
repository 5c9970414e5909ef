"""Names of files and classes reach no terminal and no list with control characters in them."""

import io
import os
import signal
import sys
import tarfile
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError, one_line, printable
from alexnet_dali.tools import cli, prep_imagenet
from tests.images import write_class_folders

EVIL = ("esc\x1b[2J", "return\rx", "bell\x07", "c1\x9b2J", "right-to-left\u202e")
LATIN = os.fsdecode(b"caf\xe9")


def controls(text, allowed=""):
    return [c for c in text if unicodedata.category(c) == "Cc" and c not in allowed]


@given(text=st.text())
@example(text="\x1b[2J\r\n\t\x85\u2028\\ \ud800")
def test_every_control_character_is_spelt_out(text):
    assert not controls(one_line(text)) and len(one_line(text).splitlines()) <= 1
    assert not controls(printable(text), "\n\t")
    assert not controls(str(DatasetError(text)), "\n\t")
    assert printable(printable(text)) == printable(text)


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_other_names_stay_as_they_are(text):
    assert printable(text) == text and one_line(text.replace("\\", "")) == text.replace("\\", "")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a preparation as from the command line; its exit status, and what it shows."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prep_imagenet", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        monkeypatch.setattr(signal, "signal", lambda number, action: None)
        status = 0
        try:
            cli.run(prep_imagenet.main)
        except SystemExit as end:
            status = end.code
        shown = "".join(capsys.readouterr())
        assert not controls(shown, "\n"), shown
        return status, shown

    return run


def test_preparation_shows_and_lists_them_spelt_out(run, tmp_path):
    write_class_folders(tmp_path / "train", {name: 2 for name in (*EVIL, LATIN)})
    for name in EVIL:
        (tmp_path / "train" / EVIL[0] / f"bad {name}.jpg").write_bytes(b"x")
        (tmp_path / "train" / f"beside {name}").write_bytes(b"x")
    (tmp_path / "train" / EVIL[0] / "new\nline.jpg").write_bytes(b"x")
    arguments = ["--train", tmp_path / "train", "--hold-out", 0.5, "--out", tmp_path / "out"]
    status, shown = run(*arguments)
    assert status == 0 and r"esc\x1b[2J" in shown
    rejected = os.fsdecode((tmp_path / "out/rejected.txt").read_bytes())
    assert not controls(rejected, "\n\t") and rejected.count("\n") == len(EVIL) + 1
    dataset = Dataset.open(tmp_path / "out")
    assert set(dataset.classes) == {*EVIL, LATIN}
    assert {dataset.train.name(i).split("/")[0] for i in range(len(dataset.train))} <= {
        *EVIL,
        LATIN,
    }


@pytest.mark.parametrize("name", ["a/\x1b[2J\n.jpg", "a/\r\n../../x"])
def test_an_archive_with_such_names_is_refused_in_one_line(name, run, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, "x"
        tar.addfile(entry, io.BytesIO())
    status, shown = run("--train", tmp_path / "a.tar", "--hold-out", 0.5, "--out", tmp_path / "out")
    assert status == 2 and shown.startswith("error: ") and shown.count("\n") == 1
