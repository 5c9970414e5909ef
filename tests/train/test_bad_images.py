"""A run over images that go bad: it names, lists and counts them, goes on or stops."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.train.__main__ import main
from tests.recipes import TINY


@pytest.fixture
def train(prepared, tmp_path):
    """Trains on a copy of the images, of which some are damaged first; returns the exit status."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    shutil.copytree(prepared, tmp_path / "copy")
    about = tmp_path / "copy/dataset.yaml"
    for part in ("train", "val"):
        images = getattr(Dataset.open(prepared), part)
        shutil.copytree(images.root, tmp_path / part)
        about.write_text(about.read_text().replace(images.root, str(tmp_path / part)))

    def run(folder, *more, bad=()):
        for name in bad:
            (tmp_path / name).write_bytes(b"no picture")
        options = ["--data.root", tmp_path / "copy", "--run.dir", tmp_path / folder, *more]
        return main([str(tmp_path / "tiny.yaml"), *map(str, options)])

    return run


def weights(folder: Path):
    newest = sorted((folder / "checkpoints").glob("*.pt"))[-1]
    return torch.load(newest, weights_only=True)["model"]


BAD = ("train/a/003.jpg", "train/b/001.jpg", "val/c/002.jpg")
MOST = ("--data.max_bad_fraction", "0.5")


def test_the_run_names_lists_and_counts_them(train, tmp_path, capsys):
    assert train("run", *MOST, bad=BAD) == 0
    output = capsys.readouterr().out
    listed = [
        line.split("\t") for line in (tmp_path / "run/bad_images.txt").read_text().splitlines()
    ]
    for name in BAD:
        assert output.count(f"warning: {tmp_path / name} can't be used any more") == 1
        assert any(path == str(tmp_path / name) for _, path, _, _ in listed)
    assert "14 images" in output  # of 15 to validate on
    metrics = (tmp_path / "run/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    rows = sum(line.get("data/replacements", 0) for line in lines)
    assert rows == len([one for one in listed if one[3] != "not counted"]) > 4


def test_a_resumed_run_shows_the_same_stand_ins(train, tmp_path):
    assert train("whole", *MOST, bad=BAD) == 0
    assert train("parts", *MOST, "--run.max_steps", "5") == 0
    assert train("parts", *MOST) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lists = [(tmp_path / run / "bad_images.txt").read_text() for run in ("whole", "parts")]
    assert sorted(lists[0].splitlines()) == sorted(lists[1].splitlines())


def test_too_many_of_them_end_the_run(train, capsys):
    assert train("run", bad=BAD) == 2
    assert "2 of 42 training images can't be used any more in epoch 1" in capsys.readouterr().err


def test_the_run_stops_at_the_first_where_it_is_told_to(train, capsys):
    assert train("run", "--data.max_bad_fraction", "0", bad=BAD) == 2
    message = capsys.readouterr().err
    assert "can't be used any more: it has 10 bytes" in message and "restore the file" in message
