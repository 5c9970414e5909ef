"""What is watched of the layers: against numpy, and the same wherever the columns are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.config import PerLayer
from alexnet_dali.train.optim import OptimConfig, PaperSGD
from alexnet_dali.train.parallel.collectives import GradientAllReduce
from alexnet_dali.train.parallel.ranks import join
from alexnet_dali.train.record.layers import LayerStats
from tests.ranks import run_ranks
from tests.reference import CLASSES, CROP, TINY

BATCH = 8
SMALL_WEIGHTS = replace(TINY, init_std=PerLayer(0.001))  # biases outweigh what is read
SILENT = {"conv1": [5], "conv4": [0, 15], "fc6": [1, 12, 13]}
"""Units, of both columns, whose bias keeps them at zero; all others are always above."""


def watch(folder):
    """One step, watched; each rank saves the numbers, and the weights before and after."""
    with join("cpu") as ranks:
        model = AlexNet(SMALL_WEIGHTS, CLASSES, CROP, ranks.columns, seed=3).double()
        averaging = GradientAllReduce(model, ranks.data_group)
        before = model.full_state()
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
            bias = torch.full_like(before[f"{name}.bias"], 50.0)
            bias[SILENT.get(name, [])] = -1e6
            before[f"{name}.bias"] = bias
        model.load_full_state(before)
        optimizer = PaperSGD(model.named_parameters(), OptimConfig())
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(BATCH, 3, CROP, CROP, generator=draw).double()
        labels = torch.randint(CLASSES, (BATCH,), generator=draw)
        share = BATCH // ranks.num_pairs
        rows = slice(ranks.pair * share, (ranks.pair + 1) * share)
        lab = LayerStats(model, ranks.all_reduce_over_pairs, uses_relu=True)
        losses = []
        for step in range(2):
            with lab.watching(step == 0):
                masks = DropoutMasks(1, step, ranks.device, ranks.pair)
                loss = F.cross_entropy(model(images[rows], masks), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                averaging.wait()
                optimizer.step()
            losses.append(loss.item())
            if step == 0:
                after, numbers = model.full_state(), lab.numbers()
        result = {"numbers": numbers, "before": before, "after": after, "losses": losses}
        torch.save(result, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    watch(folder)
    return torch.load(folder / "0.pt")


def test_numbers_are_those_of_numpy(alone):
    numbers = alone["numbers"]
    layers = {key.split(".")[0] for key in alone["before"]}
    assert len(layers) == 8
    for layer in layers:
        before, after = (alone[when][f"{layer}.weight"].numpy() for when in ("before", "after"))
        weight, update = np.abs(after).mean(), np.abs(after - before).mean()
        assert numbers[f"weights/{layer}"] == pytest.approx(weight, rel=1e-12)
        assert numbers[f"weights_update/{layer}"] == pytest.approx(update, rel=1e-12) != 0
        ratio = numbers[f"weights_update_ratio/{layer}"]
        assert ratio == pytest.approx(update / weight, rel=1e-12)
    silent = {
        key: value for key, value in numbers.items() if key.startswith("units_dead_fraction/")
    }
    assert silent == {
        f"units_dead_fraction/{layer}": len(SILENT.get(layer, [])) / units
        for layer, units in zip(
            ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"),
            (8, 12, 16, 16, 12, 24, 24),
            strict=True,
        )
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_see_what_one_process_sees(world_size, alone, tmp_path):
    """In float64. Each column has half of every layer; each pair half of the batch."""
    run_ranks(world_size, watch, tmp_path)
    for rank in range(world_size):
        numbers = torch.load(tmp_path / f"{rank}.pt")["numbers"]
        assert numbers == pytest.approx(alone["numbers"], rel=1e-11)


def test_watching_leaves_the_bits_as_they_are(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(LayerStats, "numbers", lambda self: {})
    watching = LayerStats.watching
    monkeypatch.setattr(LayerStats, "watching", lambda self, due: watching(self, False))
    watch(tmp_path)
    unwatched = torch.load(tmp_path / "0.pt")
    assert unwatched["losses"] == alone["losses"]
    for key, value in unwatched["after"].items():
        assert torch.equal(value, alone["after"][key]), key
