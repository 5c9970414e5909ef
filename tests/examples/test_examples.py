"""The examples run as they are written, and the network resumes as promised."""

import json
import os
import re
import signal
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dali.pipeline import CentreCrop, DataLoader
from alexnet_dali.pipeline.draws import Draws
from alexnet_dali.tools import prep_imagenet
from tests.images import prepare
from tests.processes import command
from tests.ranks import launch

ROOT = Path(__file__).parents[2]
TORCHVISION = """
from torch import nn
def get_model(name, num_classes):
    assert name == "small"
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


@pytest.fixture
def environment(tmp_path):
    """With a small stand-in for torchvision, whose networks take minutes on a CPU."""
    (tmp_path / "path/torchvision").mkdir(parents=True)
    (tmp_path / "path/torchvision/__init__.py").write_text("from torchvision import models\n")
    (tmp_path / "path/torchvision/models.py").write_text(TORCHVISION)
    paths = [str(tmp_path / "path"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def start(prepared, run, environment):
    words = ["--data", prepared, "--checkpoint", run / "network.pt", "--model", "small"]
    words += ["--size", "64", "--batch", "8", "--epochs", "2", "--save-every", "2"]
    return launch(2, "examples/resnet.py", *words, environment=environment)


def losses(launched, kill_at=None):
    """The lines that the run prints, by step or epoch; it is killed where it comes to `kill_at`."""
    found = {}
    for line in launched.ranks[0].stdout:
        words = line.split()
        if words[:1] in (["step"], ["epoch"]):
            found[" ".join(words[:2])] = words[2:]
        if kill_at is not None and line.startswith(f"step {kill_at} "):
            for rank in launched.ranks:
                rank.kill()
    assert launched.wait() == [0 if kill_at is None else -signal.SIGKILL] * 2, launched.ranks[
        0
    ].errors()
    return found


def test_a_network_of_torchvision_resumes_with_the_same_losses(prepared, tmp_path, environment):
    whole = losses(start(prepared, tmp_path / "whole", environment))
    assert len(whole) == 2 * (42 // 8) + 2 and "epoch 2:" in whole
    resumed = losses(start(prepared, tmp_path / "killed", environment), kill_at=7)
    assert "epoch 1:" in resumed and "epoch 2:" not in resumed
    resumed |= losses(start(prepared, tmp_path / "killed", environment))
    assert resumed == whole


def test_crops_of_ones_own_balance_the_classes(tmp_path, environment):
    """Of 40 images, 32 are of one class. The chance of fewer than 8 in 32 draws is 0.1%."""
    folder = prepare(tmp_path, {"a": 32, "b": 8}, {"a": 2, "b": 2})
    process = command("examples/own_crops.py", folder, environment=environment)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    shape, counts = map(json.loads, re.findall(r"\[.*?\]", printed))
    assert shape == [32, 3, 224, 224] and sum(counts) == 32 and min(counts) >= 8


def test_its_crops_grow_stay_inside_and_are_drawn_anew():
    sizes = np.array([[300, 500], [400, 200]] * 50, np.int32)
    growing = run_path(str(ROOT / "examples/own_crops.py"))["Growing"]()
    for epoch, share in ((0, 0.5), (5, 0.75), (10, 1), (30, 1)):
        boxes, mirrored = growing.draw(Draws(0, epoch, np.arange(100)), sizes)
        sides = boxes[:, 2:] - boxes[:, :2]
        np.testing.assert_allclose(sides, share * sizes.min(axis=1)[:, None] * [[1, 1]])
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= sizes).all()
        assert 30 < mirrored.sum() < 70 and len(np.unique(boxes[::2], axis=0)) > 10


def noisy(images, labels):
    """A transform that draws from torch's generator, and shows each image its neighbour."""
    share = torch.rand(1)
    return share * images + (1 - share) * images.roll(1, 0) + torch.randn(images.shape), labels


@pytest.mark.parametrize("together", [1, 2])
def test_augmentations_are_the_same_on_any_number_of_ranks_and_after_a_resume(prepared, together):
    augment = run_path(str(ROOT / "examples/augment.py"))["augment"]

    def batches(rank, world_size, first):
        loader = DataLoader(
            prepared,
            global_batch_size=8,
            crops=CentreCrop(32, 40),
            rank=rank,
            world_size=world_size,
        )
        loader.step = first
        for images, labels in loader:
            row, step = loader.rank * len(images), loader.step - 1
            state = torch.get_rng_state()
            options = {"step": step, "first_row": row, "together": together}
            yield augment(noisy, images, labels, seed=3, **options)
            assert torch.get_rng_state().equal(state)

    whole = list(batches(0, 1, 0))
    for world_size, first in ((2, 0), (4, 2), (1, 3)):
        ranks = [batches(rank, world_size, first) for rank in range(world_size)]
        for parts, expected in zip(zip(*ranks), whole[first:], strict=True):
            for own, one in zip(zip(*parts), expected, strict=True):
                assert torch.cat(own).equal(one)
    images = torch.zeros(4, 1, 2, 2)
    for other in ({"step": 1}, {"step": 0, "first_row": 4}, {"step": 0, "seed": 4}):
        first, second = (
            augment(noisy, images, torch.zeros(4), **{"seed": 3, "together": together, **options})
            for options in ({"step": 0}, other)
        )
        assert (first[0] != second[0]).all()
    assert len(first[0].unique()) == 16
    with pytest.raises(ValueError, match="found 3 rows; expected a multiple of 2"):
        augment(noisy, images[:3], torch.zeros(3), seed=0, step=0, together=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multilabel", "numbers"])
def test_other_targets_resume_on_another_number_of_ranks(tmp_path, environment, kind):
    """In float64: after a kill, one rank goes on with what two have begun."""
    for split, count in (("train", 70), ("val", 4)):
        (tmp_path / split).mkdir()
        lines = ["file,red,blue"]
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (72, 72, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{number}.png")
            lines.append(f"{number}.png,{number % 2},{number % 3 // 2}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    words = [word for split in ("train", "val") for word in (f"--{split}", tmp_path / split)]
    words += ["--train-labels", tmp_path / "train.csv", "--val-labels", tmp_path / "val.csv"]
    words += ["--targets", kind, "--out", tmp_path / "out"]
    prep_imagenet.main([str(word) for word in words])

    def run(ranks, name, kill_at=None):
        words = [tmp_path / "out", tmp_path / name, "2"]
        launched = launch(ranks, "examples/targets.py", *words, environment=environment)
        found = {}
        for line in launched.ranks[0].stdout:
            _, step, _, loss = line.split()
            found[int(step)] = float(loss)
            if int(step) == kill_at:
                for rank in launched.ranks:
                    rank.kill()
        launched.wait()
        return found

    whole = run(2, "whole.pt")
    resumed = run(2, "killed.pt", kill_at=2) | run(1, "killed.pt")
    assert sorted(whole) == sorted(resumed) == [1, 2, 3, 4]
    np.testing.assert_allclose([*resumed.values()], [*whole.values()], rtol=1e-12)
