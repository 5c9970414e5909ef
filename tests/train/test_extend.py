"""The metric of docs/extend.md: the same on any number of ranks, and that of numpy."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.train.parallel.ranks import join
from tests.ranks import run_ranks
from tests.reference import CLASSES, CROP, TINY

BATCH = 8
ROOT = Path(__file__).parents[2]


def gradient_norm():
    """The function as the page has it."""
    page = (ROOT / "docs/extend.md").read_text()
    (code,) = re.findall(r"\n((?:    def gradient_norm.*\n)(?:(?:     .*)?\n)+)", page)
    names = {"torch": torch, "AlexNet": AlexNet}
    exec(textwrap.dedent(code), names)
    return names["gradient_norm"]


def measure(folder):
    """A backward pass on this rank's images; saves the norm, and all gradients."""
    with join("cpu") as ranks:
        model = AlexNet(TINY, CLASSES, CROP, ranks.columns, seed=3).double()
        all_reduce = ranks.gradient_all_reduce(model)
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(BATCH, 3, CROP, CROP, generator=draw).double()
        labels = torch.randint(CLASSES, (BATCH,), generator=draw)
        shard = BATCH // ranks.num_pairs
        rows = slice(ranks.pair * shard, (ranks.pair + 1) * shard)
        masks = DropoutMasks(1, 0, ranks.device, ranks.pair)
        F.cross_entropy(model(images[rows], masks), labels[rows]).backward()
        all_reduce.wait()
        own = [
            {name: parameter.grad for name, parameter in column.named_parameters()}
            for column in model.own_columns
        ]
        result = {"norm": gradient_norm()(model), "gradients": model.columns.merge(own)}
        torch.save(result, folder / f"{ranks.rank}.pt")


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_gradients_norm_is_that_of_the_whole_network_on_any_number_of_ranks(
    world_size, tmp_path
):
    """In float64. What a rank adds up of its own column alone is less, and would be seen."""
    measure(tmp_path)
    alone = torch.load(tmp_path / "0.pt")
    whole = np.concatenate([grad.numpy().ravel() for grad in alone["gradients"].values()])
    assert alone["norm"] == pytest.approx(np.sqrt(np.sum(whole**2)), rel=1e-12)
    run_ranks(world_size, measure, tmp_path)
    for rank in range(world_size):
        found = torch.load(tmp_path / f"{rank}.pt")["norm"]
        assert found == pytest.approx(alone["norm"], rel=1e-12)
