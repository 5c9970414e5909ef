"""The demo's last commands work on what it prepared and trained, wherever the images lie."""

import importlib
import shutil
import tarfile
from pathlib import Path

import pytest

from alexnet_dali.tools import demo
from tests.images import write_class_folders


@pytest.fixture
def started(monkeypatch, tmp_path, trained):
    """The commands of a demo in a clone of its own, by module.

    They are run, too, but for training and evaluation: a finished run is there at once.
    """
    commands = {}

    def start(*words):
        module, *arguments = list(map(str, words))[list(words).index("-m") + 1 :]
        if module == "torch.distributed.run":
            module = "train"
            shutil.copytree(trained, Path(arguments[-1]))
        elif module != "alexnet_dali.tools.evaluate":
            path = (
                f"{module}.__main__"
                if module in ("alexnet_dali.tools.predict", "alexnet_dali.tools.report")
                else module
            )
            importlib.import_module(path).main(arguments)
        commands[module] = arguments

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "_command", start)
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
    _, *pictures = started["alexnet_dali.tools.predict"]
    prepared = tmp_path / started["alexnet_dali.tools.prep_imagenet"][-1]
    held_out = [line.split()[0] for line in (prepared / "val.txt").read_text().splitlines()]
    assert all(any(picture.endswith(name) for name in held_out) for picture in pictures)
    assert {Path(picture).parent.name for picture in pictures} == {"a", "b"}
    assert "pictures in a class's folder: 2;" in printed, (
        "their classes are known from their folders"
    )
    report = tmp_path / started["alexnet_dali.tools.report"][-1]
    assert "</html>" in report.read_text()
    assert str(report) in printed and "tensorboard --logdir" in printed


def test_pictures_of_its_own_are_named_by_short_paths(started, tmp_path, capsys):
    write_class_folders(tmp_path / ".demo/images/train", dict.fromkeys("abc", 4))
    write_class_folders(tmp_path / ".demo/images/val", dict.fromkeys("abc", 1))
    demo.main([])
    assert started["alexnet_dali.tools.predict"] == [
        "runs/demo",
        ".demo/images/val/a/000.jpg",
        ".demo/images/val/b/000.jpg",
    ]
