"""One process, two columns and two pairs of columns train the same weights, in float64.

This test guards everything else. Where it fails, look first at the backward rules of
model/columns.py: a wrong rule doubles or loses gradients without an error.
"""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from alexnet_dali.model import columns as columns_module
from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.config import PerLayer
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.reading.replacements import stop
from alexnet_dali.train.config import DataConfig, TrainConfig
from alexnet_dali.train.data import training_batches
from alexnet_dali.train.optim import OptimConfig, PaperSGD
from alexnet_dali.train.parallel.collectives import GradientAllReduce
from alexnet_dali.train.parallel.ranks import Ranks, join
from tests import reference
from tests.ranks import run_ranks
from tests.reference import CLASSES, CROP, TINY

VARIANTS = {
    "one column": {"columns": 1, "kernels": (4, 6, 8, 8, 12)},
    "no cross talk": {"cross_talk": ()},
    "cross talk everywhere": {"cross_talk": ("conv2", "conv4", "conv5")},
    "no response norm": {"local_response_norm": False},
    "pooling without overlap": {"pool_size": 2},
    "without conv3": {"skip_layers": ("conv3",), "cross_talk": ("conv4",)},
    "without conv4 and conv5": {"skip_layers": ("conv4", "conv5")},
    "tanh": {"activation": "tanh", "dropout": 0.2, "init_bias": PerLayer(0)},
    "four layers": {"skip_layers": ("conv4", "conv5", "fc6", "fc7")},
    "sixth convolution": {"sixth_convolution": True, "init_bias": PerLayer(0.5, conv6=0.25)},
    "half of the kernels": {"half_kernels": ("conv2", "conv5")},
    "2012 code": {"norm_alpha": 2e-5, "conv1_relu": "after_pool", "within_channel_norm": True},
}

SEED, BATCH = 11, 8
LRS = [0.02, 0.02, 0.02, 0.002, 0.002]


def batches():
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(BATCH, 3, CROP, CROP, generator=draw).double(),
            torch.randint(CLASSES, (BATCH,), generator=draw),
        )
        for _ in LRS
    ]


def train(ranks: Ranks, config=TINY):
    """Train the real network with the real optimizer.

    Returns the losses over all pairs, and the weights of the whole network.
    """
    losses, state = train_from(None, ranks, 0, len(LRS), config)
    return losses, state["model"]


def train_from(state, ranks: Ranks, first: int, last: int, config=TINY):
    """Run the updates from `first` to `last` - 1, resuming from `state` as the trainer does.

    Returns their losses, and the state at the end.
    """
    model = AlexNet(config, CLASSES, CROP, ranks.columns, SEED).double().to(ranks.device)
    averaging = GradientAllReduce(model, ranks.data_group)
    optimizer = PaperSGD(model.named_parameters(), OptimConfig())
    if state:
        model.load_full_state(state["model"])
        for column, buffers in zip(
            model.own_columns, ranks.columns.split(state["momentum"]), strict=True
        ):
            optimizer.restore(column, buffers, state["lr"])
    rows = slice(ranks.pair * BATCH // ranks.num_pairs, (ranks.pair + 1) * BATCH // ranks.num_pairs)
    losses = []
    for step, (batch, lr) in list(enumerate(zip(batches(), LRS)))[first:last]:
        images, labels = (part[rows].to(ranks.device) for part in batch)
        if optimizer.lr != lr:
            optimizer.set_lr(lr)
        loss = F.cross_entropy(
            model(images, DropoutMasks(SEED, step, ranks.device, ranks.pair)), labels
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        averaging.wait()
        optimizer.step()
        losses.append(ranks.all_reduce_over_pairs(loss.detach()).item() / ranks.num_pairs)
    momentum = ranks.columns.merge([optimizer.momentum(column) for column in model.own_columns])
    return losses, {"model": model.full_state(), "momentum": momentum, "lr": optimizer.lr}


def read(ranks: Ranks, dataset: Dataset):
    """The first batches of a training run, as this rank receives them."""
    data, recipe = DataConfig(root="", resize=64, crop=56), TrainConfig(batch_size=12, seed=1)
    batches = training_batches(dataset, data, recipe, ranks, range(1, 4), stop)
    return [(batch.images.clone(), batch.labels.clone()) for batch in batches]


def train_and_save(folder, dataset):
    with join("cpu") as ranks:
        losses, weights = train(ranks)
        swapped = list(train_with_swapped_rules(ranks))
        assert ranks.all_reduce_max([ranks.rank, -ranks.rank]) == [ranks.world_size - 1, 0]
        result = {
            "losses": losses,
            "weights": weights,
            "swapped": swapped,
            "batches": read(ranks, dataset),
        }
        torch.save(result, folder / f"{ranks.rank}.pt")


def train_with_swapped_rules(ranks):
    """Whole weights after training with one backward rule in the other's place.

    Such a mistake raises no error.
    """

    def keep_own(ctx, grad):
        return grad.chunk(2, dim=1)[ranks.columns.held[0]].contiguous(), None

    def sum_both(ctx, grad):
        own = grad.chunk(2, dim=1)[ranks.columns.held[0]].contiguous()
        dist.all_reduce(own, group=ranks.columns.group)
        return own, None, None

    for function, rule in (
        (columns_module._CrossTalk, keep_own),
        (columns_module._CollectLogits, sum_both),
    ):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(function, "backward", staticmethod(rule))
            yield train(ranks)[1]


def train_variants(folder, variants):
    """Train each variant, and save its losses and weights.

    Two columns are on two ranks. A network of one column is on each rank, data parallel.
    """
    with join("cpu", next(iter(variants.values())).columns) as ranks:
        torch.save(
            {name: train(ranks, config) for name, config in variants.items()},
            folder / f"{ranks.rank}.pt",
        )


def average_twice(folder):
    """Save this pair's own gradients, and the averages in its first and in its second step.

    All are gradients of the same batch.
    """
    with join("cpu", num_columns=1) as ranks:
        config = replace(TINY, columns=1, kernels=(16, 24, 32, 32, 24), fc_width=256)
        draw = torch.Generator().manual_seed(ranks.rank)
        images, labels = (
            torch.randn(2, 3, CROP, CROP, generator=draw),
            torch.randint(CLASSES, (2,), generator=draw),
        )

        def gradients(model, averaging):
            model.zero_grad(set_to_none=True)
            F.cross_entropy(
                model(images, DropoutMasks(SEED, 7, ranks.device, ranks.pair)), labels
            ).backward()
            averaging.wait()
            return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

        model = AlexNet(config, CLASSES, CROP, ranks.columns, SEED)
        own = gradients(model, GradientAllReduce(model, group=None))
        averaging = GradientAllReduce(model, ranks.data_group)
        torch.save(
            [own, gradients(model, averaging), gradients(model, averaging)],
            folder / f"{ranks.rank}.pt",
        )


def test_gradients_are_averaged_over_pairs_to_the_same_bits_in_every_step(tmp_path):
    """With four addends, another order of addition would change the last bits."""
    run_ranks(4, average_twice, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    for name, gradient in results[0][1].items():
        mean = torch.stack([own[name].double() for own, *_ in results]).mean(0)
        torch.testing.assert_close(
            gradient.double(), mean, rtol=1e-5, atol=1e-6 * mean.abs().max().item()
        )
        assert all(torch.equal(gradient, step[name]) for _, *steps in results for step in steps), (
            name
        )


@pytest.fixture(scope="module")
def expected():
    return reference.expected(SEED, batches(), LRS)


def largest_difference(weights, expected_weights):
    return max((weights[key] - value).abs().max().item() for key, value in expected_weights.items())


def test_one_process_trains_like_the_plain_network(expected):
    with join("cpu") as ranks:
        losses, weights = train(ranks)
    assert losses == pytest.approx(expected[0], abs=1e-12)
    assert largest_difference(weights, expected[1]) < 1e-12


@pytest.mark.parametrize("columns", [1, 2])
def test_variants_train_like_their_plain_networks_in_one_process_and_on_two_ranks(
    columns, tmp_path
):
    variants = {name: replace(TINY, **changes) for name, changes in VARIANTS.items()}
    variants = {name: config for name, config in variants.items() if config.columns == columns}
    run_ranks(2, train_variants, tmp_path, variants)
    on_ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    plain = reference.expected(SEED, batches(), LRS)
    for name, config in variants.items():
        losses, weights = reference.expected(SEED, batches(), LRS, config)
        assert losses[-1] != plain[0][-1], f"{name} changes nothing"
        with join("cpu", columns) as ranks:
            alone = train(ranks, config)
        for found in (alone, *(results[name] for results in on_ranks)):
            assert found[0] == pytest.approx(losses, abs=1e-12), name
            assert largest_difference(found[1], weights) < 1e-12, name
            assert found[1].keys() == weights.keys()


@pytest.mark.parametrize("world_size", [2, 4])
def test_columns_and_pairs_of_columns_train_like_the_plain_network(
    world_size, expected, dataset, tmp_path
):
    run_ranks(world_size, train_and_save, tmp_path, dataset)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    for result in results:
        assert result["losses"] == pytest.approx(expected[0], abs=1e-12)
        assert largest_difference(result["weights"], expected[1]) < 1e-12
        assert len(result["swapped"]) == 2
        for weights in result["swapped"]:
            assert largest_difference(weights, expected[1]) > 1e-4, (
                "a swapped backward rule would go unnoticed"
            )
    with join("cpu") as ranks:
        whole = read(ranks, dataset)
    for step, (images, labels) in enumerate(whole):
        for rank, result in enumerate(results):
            rows = 12 // max(1, world_size // 2)
            own = slice(rank // 2 * rows, (rank // 2 + 1) * rows)
            assert torch.equal(result["batches"][step][0], images[own])
            assert torch.equal(result["batches"][step][1], labels[own])
