import dataclasses
import json

import numpy as np
import pytest
import torch

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch
from alexnet_dali.tools import evaluate
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.evaluation import (
    centre_view,
    error_rates,
    halves,
    label_ranks,
    mixture,
    outcomes,
    probabilities,
    search_weights,
    ten_views,
)
from alexnet_dali.train.networks import open_dataset, open_network
from tests.ranks import launch


def test_label_ranks_agree_with_sorting():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 12)), rng.integers(0, 12, 50)
    expected = [list(np.argsort(-row)).index(label) for row, label in zip(logits, labels)]
    assert label_ranks(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected


def test_ties_and_nans_count_against_the_network():
    assert label_ranks(torch.zeros(1, 10), torch.tensor([3])).tolist() == [9]
    assert label_ranks(torch.full((1, 10), float("nan")), torch.tensor([3])).tolist() == [9]
    assert label_ranks(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([2])).tolist() == [1]


class Oracle(torch.nn.Module):
    """A network that scores class k by the k-th pixel of the first row."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images[:, 0, 0, :8]


def test_error_rates_count_each_image_once():
    """The ranks of the labels are 0, 4, 5 and 7; a last row only fills up the batch."""
    images = torch.zeros(5, 3, 12, 12)
    images[:, 0, 2, 2:10] = torch.arange(8.0).flip(0)
    labels = torch.tensor([0, 4, 5, 7, IGNORE_INDEX])
    batches = [Batch(images[:3], labels[:3]), Batch(images[3:], labels[3:])]
    errors = error_rates(Oracle(), batches, torch.zeros(3, 8, 8), lambda counts: counts)
    assert (errors.top1_error, errors.top5_error, errors.num_images) == (3 / 4, 2 / 4, 4)
    scores = np.exp(np.arange(8)[::-1])
    chances = np.tile(scores / scores.sum(), (4, 1))
    expected = -np.log(chances[range(4), labels[:4]]).mean()
    assert errors.loss == pytest.approx(expected, rel=1e-14)
    (found,) = outcomes([(torch.from_numpy(chances)[None], labels[:4])])
    assert found.errors().loss == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("size, crop, edge", [(256, 224, 16), (64, 56, 4), (9, 4, 2)])
def test_the_centre_view_is_cut_from_the_middle(size, crop, edge):
    images = torch.arange(size * size).view(1, 1, size, size)
    assert torch.equal(
        centre_view(images, crop), images[:, :, edge : edge + crop, edge : edge + crop]
    )


def test_ten_views_are_corners_centre_and_their_mirror_images():
    """Each pixel's value says where it was.

    The first pixels of the views are at the places that the paper names.
    """
    images = torch.arange(2 * 3 * 64 * 64).view(2, 3, 64, 64).float()
    views = ten_views(images, 56)
    assert views.shape == (10, 2, 3, 56, 56)
    for number, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]):
        expected = images.numpy()[:, :, top : top + 56, left : left + 56]
        np.testing.assert_array_equal(views[number], expected)
        np.testing.assert_array_equal(views[5 + number], expected[..., ::-1])


def test_probabilities_average_the_softmax_of_each_view_less_the_mean_image():
    rng = np.random.default_rng(0)
    images, mean = rng.normal(size=(4, 3, 12, 12)), rng.normal(size=(3, 8, 8))
    found = probabilities(Oracle(), torch.from_numpy(images), torch.from_numpy(mean), 10)
    expected = np.zeros((4, 8))
    for top, left in [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]:
        view = images[:, :, top : top + 8, left : left + 8]
        for one in (view, view[..., ::-1]):
            scores = np.exp((one - mean)[:, 0, 0])
            expected += scores / scores.sum(1, keepdims=True) / 10
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    centre = probabilities(Oracle(), torch.from_numpy(images), torch.from_numpy(mean), 1)
    scores = np.exp((images[:, :, 2:10, 2:10] - mean)[:, 0, 0])
    np.testing.assert_allclose(centre, scores / scores.sum(1, keepdims=True), rtol=1e-12)


def test_searched_weights_are_at_least_as_good_as_a_fine_grid():
    """Two networks of different quality, and a third that is noise."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 400)
    scores = np.stack(
        [rng.normal(size=(400, 5)) + skill * np.eye(5)[labels] for skill in (2.0, 1.5, 0.0)]
    )
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    own = probs[:, np.arange(400), labels]

    def likelihood(weights):
        return np.log(np.asarray(weights) @ own).mean()

    grid = [
        (a, b, 1 - a - b)
        for a in np.linspace(0, 1, 41)
        for b in np.linspace(0, 1, 41)
        if a + b <= 1
    ]
    weights = search_weights(own)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert likelihood(weights) >= max(map(likelihood, grid)) - 1e-6
    together = mixture(torch.from_numpy(probs), weights.tolist())
    np.testing.assert_allclose(together, np.einsum("m,mnc->nc", weights, probs), rtol=1e-14)


def test_halves_split_the_images_of_every_class():
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 2])
    first, second = halves(labels)
    assert (first ^ second).all()
    assert np.bincount(labels[first]).tolist() == [2, 1, 1] and np.bincount(
        labels[second]
    ).tolist() == [2, 1, 1]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_counts_every_image_once_with_the_same_result(
    num_ranks, trained, prepared, tmp_path, capsys
):
    options = [trained, trained, "--data", prepared, "--views", "10", "--json", "--device", "cpu"]
    options = list(map(str, [*options, "--batch-size", "4", "--save"]))
    evaluate.main([*options, str(tmp_path / "one.npz")])
    launched = launch(
        num_ranks, "-m", "alexnet_dali.tools", "evaluate", *options, tmp_path / "many.npz"
    )
    assert launched.wait() == [0] * num_ranks, launched.ranks[0].errors()
    many = launched.ranks[0].stdout.read()
    found = [
        json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
        for said in (capsys.readouterr().out, many)
    ]
    assert found[0]["num_images"] == found[1]["num_images"] == 15 and len(found[0]["networks"]) == 2
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "many.npz") as many:
        np.testing.assert_allclose(one["probabilities"], many["probabilities"], atol=1e-5)
        np.testing.assert_array_equal(one["labels"], many["labels"])
        assert one["probabilities"].shape == (2, 15, 3)
        np.testing.assert_allclose(one["probabilities"].sum(-1), 1)
    assert sum(row["num_images"] for row in found[0]["per_class"]) == 15


def test_the_runs_own_images_are_evaluated_unless_others_are_given(trained, prepared, capsys):
    evaluate.main([str(trained), "--json", "--device", "cpu"])
    own = json.loads(capsys.readouterr().out)
    evaluate.main([str(trained), "--json", "--device", "cpu", "--data", str(prepared)])
    assert json.loads(capsys.readouterr().out) == own and own["num_images"] == 15
    path = checkpoint.newest(trained / "checkpoints")
    network = open_network(path, torch.device("cpu"))
    moved = network._replace(data=dataclasses.replace(network.data, root="/gone"))
    with pytest.raises(DatasetError, match=r"/gone .*trained on it; else give --data"):
        open_dataset(None, moved)


def test_searching_weights_needs_two_networks(trained, prepared):
    with pytest.raises(ValueError, match="two checkpoints or more"):
        evaluate.main([str(trained), "--data", str(prepared), "--weights", "search"])
