"""The demo's last commands work on what it prepared and trained, wherever the images lie."""

import importlib
import os
import shutil
import signal
import tarfile
import time
from pathlib import Path

import pytest

from alexnet_dali.tools import demo
from alexnet_dali.tools.__main__ import COMMANDS
from tests.images import write_class_folders
from tests.processes import Started


@pytest.fixture
def started(monkeypatch, tmp_path, trained):
    """The commands of a demo in a clone of its own, by module.

    They are run, too, but for training and evaluation: a finished run is there at once.
    """
    commands = {}

    def start(name, *arguments):
        commands[name] = list(map(str, arguments))
        if name != "evaluate":
            module = COMMANDS[name][0]
            importlib.import_module(f"alexnet_dali.tools.{module}").main(commands[name])

    def train(*words):
        shutil.copytree(trained, Path(words[-1]))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_command", start)
    monkeypatch.setattr(demo, "_python", train)
    return commands


@pytest.mark.parametrize("form", ["folders", "archives"])
def test_it_names_two_pictures_and_reports(form, started, tmp_path, capsys):
    """Pictures are validation images of two classes, which their folders name."""
    images = tmp_path / "pets"
    write_class_folders(images, dict.fromkeys("abc", 10))
    if form == "archives":
        for folder in list(images.iterdir()):
            with tarfile.open(images / f"{folder.name}.tar", "w") as archive:
                archive.add(folder, folder.name)
            shutil.rmtree(folder)
    demo.main(["--data", str(images)])
    printed = capsys.readouterr().out
    _, *pictures = started["predict"]
    prepared = tmp_path / started["prep"][-1]
    held_out = [line.split()[0] for line in (prepared / "val.txt").read_text().splitlines()]
    assert all(any(picture.endswith(name) for name in held_out) for picture in pictures)
    assert {Path(picture).parent.name for picture in pictures} == {"a", "b"}
    assert "pictures in a class's folder: 2;" in printed, (
        "their classes are known from their folders"
    )
    report = tmp_path / started["report"][-1]
    assert "</html>" in report.read_text()
    assert str(report) in printed and "tensorboard --logdir" in printed


def test_pictures_of_its_own_are_named_by_short_paths(started, tmp_path, capsys):
    write_class_folders(tmp_path / ".demo/images/train", dict.fromkeys("abc", 4))
    write_class_folders(tmp_path / ".demo/images/val", dict.fromkeys("abc", 1))
    demo.main([])
    assert started["predict"] == [
        "runs/demo",
        ".demo/images/val/a/000.jpg",
        ".demo/images/val/b/000.jpg",
    ]


SAVES = """
import signal, sys, time
from pathlib import Path

def save(*_):
    time.sleep(1)
    Path("saved").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, save)
Path("there").touch()
time.sleep(60)
"""


def run_a_command(folder):
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    demo._run("saves.py")


def test_ctrl_c_lets_a_command_save(tmp_path):
    """It reaches both, as in a terminal."""
    (tmp_path / "saves.py").write_text(SAVES)
    process = Started(run_a_command, tmp_path, own_session=True)
    while not (tmp_path / "there").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130 and (tmp_path / "saved").exists()
