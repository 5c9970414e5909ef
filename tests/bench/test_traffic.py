"""The formulas of tools/bench/traffic.py, against the bytes in the collectives of real steps."""

import json

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from alexnet_dali.model import collectives
from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.tools.bench.traffic import bytes_per_step, column_parameters
from alexnet_dali.train.parallel.collectives import GradientAllReduce
from alexnet_dali.train.parallel.devices import autocast
from alexnet_dali.train.parallel.ranks import join
from tests.ranks import run_ranks
from tests.reference import CLASSES, CROP, TINY

BATCH = 8


def count(received):
    """Wrap the collectives: each adds to `received` the bytes that this rank gets from others.

    For an all-reduce, these are the fewest bytes with which it can be done.
    """
    gather, scatter = collectives.all_gather_single, collectives.reduce_scatter_single
    reduce = dist.all_reduce

    def all_gather(output, own, **options):
        received["gathered"] += output.nbytes - own.nbytes
        return gather(output, own, **options)

    def reduce_scatter(own, parts, **options):
        received["gathered"] += parts.nbytes - own.nbytes
        return scatter(own, parts, **options)

    def all_reduce(tensor, *arguments, **options):
        others = dist.get_world_size(options.get("group")) - 1
        # A ring passes each part twice
        received["reduced"] += 2 * others / (others + 1) * tensor.nbytes
        return reduce(tensor, *arguments, **options)

    collectives.all_gather_single, collectives.reduce_scatter_single = all_gather, reduce_scatter
    dist.all_reduce = all_reduce


def step(folder, precision):
    with join("cpu") as ranks:
        model = AlexNet(TINY, CLASSES, CROP, ranks.columns)
        averaging = GradientAllReduce(model, ranks.data_group)
        rows = BATCH // ranks.world_size
        own = Batch(torch.randn(rows, 3, CROP, CROP), torch.zeros(rows, dtype=torch.int64))
        received = {"gathered": 0, "reduced": 0}
        count(received)
        (batch,) = ranks.exchange([own])
        inputs = received["gathered"]
        with autocast(precision, ranks.device):
            logits = model(batch.images, DropoutMasks(0, 0, ranks.device, ranks.pair)).float()
        F.cross_entropy(logits, batch.labels).backward()
        averaging.wait()
        found = [inputs, received["gathered"] - inputs, received["reduced"]]
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("world_size, precision", [(2, "fp32"), (2, "bf16"), (4, "fp32")])
def test_a_step_receives_the_bytes_that_the_formulas_say(world_size, precision, tmp_path):
    run_ranks(world_size, step, tmp_path, precision)
    expected = bytes_per_step(TINY, CLASSES, CROP, BATCH, world_size // 2, precision)
    for rank in range(world_size):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected)


def test_the_papers_network_has_61_million_parameters():
    whole = sum(parameter.numel() for parameter in AlexNet(ModelConfig(), 1000, 224).parameters())
    assert 2 * column_parameters(ModelConfig(), 1000, 224) == whole == 60_965_224
