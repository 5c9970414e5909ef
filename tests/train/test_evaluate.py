import json
import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import evaluate, prep_imagenet
from alexnet_dali.train.__main__ import main as train
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
from alexnet_dali.train.networks import judge, open_dataset, open_network, predict
from alexnet_dali.train.parallel.ranks import join
from tests.images import write_class_folders
from tests.ranks import launch
from tests.recipes import TINY


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
    (found,) = outcomes([(torch.from_numpy(chances)[None], labels[:4])], 4)
    assert found.errors().loss == pytest.approx(expected, rel=1e-14)


def by_hand(scores, labels):
    """Top-1 and top-5 error of probabilities [N, C]: what is not clearly lower counts as higher."""
    places = [sum(not one < row[label] for one in row) - 1 for row, label in zip(scores, labels)]
    return np.mean(np.array(places) >= 1), np.mean(np.array(places) >= 5)


@pytest.fixture
def three_networks():
    """Probabilities [3, 60, 12] with ties, one row of zeros and one of NaN, and labels [60]."""
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, (3, 60, 12)) / 9, rng.integers(0, 12, 60)
    scores[0, 0], scores[1, 1, 3] = 0, np.nan
    return scores, labels


def in_batches(scores, labels, sizes):
    """Batches of unequal sizes, each with a row that does not count."""
    for places in np.split(np.arange(len(labels)), np.cumsum(sizes)):
        padded = torch.cat([torch.from_numpy(labels[places]), torch.tensor([IGNORE_INDEX])])
        rows = torch.from_numpy(scores[:, places])
        yield torch.cat([rows, torch.ones(len(scores), 1, 12)], 1), padded


def test_outcomes_of_batches_are_those_of_all_probabilities(three_networks):
    """Ties and NaN count against a network, of each network alone and of their mixture."""
    scores, labels = three_networks
    weights = [0.5, 0.3, 0.2]
    found = outcomes(in_batches(scores, labels, [25, 1]), 60, [weights])
    together = np.einsum("m,mnc->nc", weights, scores)
    for one, rows in zip(found, [*scores, together], strict=True):
        own = rows[np.arange(60), labels]
        np.testing.assert_array_equal(one.labels, labels)
        np.testing.assert_allclose(one.own, own, rtol=1e-14)
        np.testing.assert_array_equal(one.guesses, rows.argmax(1))
        np.testing.assert_allclose(one.best, rows.max(1), rtol=1e-14)
        errors = one.errors()
        assert (errors.top1_error, errors.top5_error) == by_hand(rows, labels)
        assert errors.num_images == 60
        per_class = one.by_class()
        assert list(per_class) == np.unique(labels).tolist()
        for label, errors in per_class.items():
            own_rows = rows[labels == label]
            assert (errors.top1_error, errors.top5_error) == by_hand(
                own_rows, labels[labels == label]
            )
            assert errors.num_images == len(own_rows)
            loss = -np.log(np.maximum(own_rows[:, label], 1e-300)).mean()
            np.testing.assert_allclose(errors.loss, loss, rtol=1e-12)


def test_memory_does_not_grow_with_the_probabilities():
    """Of 1000 classes, an image leaves a hundred bytes, not 8000, and no batch is kept."""
    alive, most = weakref.WeakSet(), []

    def batches(count):
        labels = torch.zeros(64, dtype=torch.int64)
        for _ in range(count):
            scores = torch.rand(1, 64, 1000, dtype=torch.float64)
            alive.add(scores)
            most.append(len(alive))
            yield scores, labels

    def peak(count):
        tracemalloc.start()
        outcomes(batches(count), 64 * count)
        (_, highest), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
        return highest

    peak(2)
    grown = peak(60) - peak(20)
    assert 0 < grown < 100 * 64 * 40
    assert max(most) <= 2


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


def test_ranks_count_every_image_once_batch_by_batch(trained, prepared, dataset):
    """15 images in batches of 8 are 16 rows: the last one must not count."""
    with join("cpu", num_columns=1) as ranks:
        network = open_network(trained, ranks.device)
        (scores,), labels = predict([network], dataset, ranks, num_views=1, batch_size=4)
    words = [trained, "--data", prepared, "--json", "--device", "cpu", "--batch-size", "4"]
    launched = launch(2, "-m", "alexnet_dali.tools", "evaluate", *words)
    assert launched.wait() == [0] * 2, launched.ranks[0].errors()
    found = json.loads(launched.ranks[0].stdout.read().splitlines()[-1])
    assert (found["top1_error"], found["top5_error"]) == by_hand(scores, labels)
    assert found["num_images"] == 15
    assert [row["num_images"] for row in found["per_class"]] == [5, 5, 5]
    for label, row in enumerate(found["per_class"]):
        assert row["top1_error"] == by_hand(scores[labels == label], labels[labels == label])[0]
    own = scores[np.arange(15), labels]
    assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)


def test_probabilities_are_kept_where_they_are_needed_alone(
    trained, prepared, tmp_path, monkeypatch, capsys
):
    """An ensemble by equal weights is counted as it goes, and is the same as of what is kept."""
    options = [trained, trained, "--data", prepared, "--json", "--device", "cpu"]
    monkeypatch.setattr(evaluate, "_MUCH", 100)
    evaluate.main([*map(str, options), "--save", str(tmp_path / "all.npz")])
    kept = capsys.readouterr()
    assert "--save keeps all probabilities, 2 x 15 x 3: 0.0 GB" in kept.err
    monkeypatch.setattr(evaluate, "predict", None)
    evaluate.main(list(map(str, options)))
    counted = capsys.readouterr()
    assert counted.out == kept.out and "keeps" not in counted.err


def test_networks_of_different_sizes_each_see_their_own_squares(
    trained, prepared, dataset, tmp_path
):
    """Together, each must say what it says alone."""
    (tmp_path / "small.yaml").write_text(TINY.replace("resize: 64", "resize: 60"))
    options = ["--data.root", prepared, "--run.dir", tmp_path / "run", "--run.max_steps", "1"]
    assert train([str(tmp_path / "small.yaml"), *map(str, options)]) == 0
    with join("cpu", num_columns=1) as ranks:
        networks = [open_network(path, ranks.device) for path in (trained, tmp_path / "run")]
        alone = [judge([network], dataset, ranks, num_views=1)[0] for network in networks]
        together = judge(networks, dataset, ranks, num_views=1)
    for one, other in zip(alone, together, strict=True):
        for column, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(column, same)
    assert not np.array_equal(alone[0].own, alone[1].own)


def test_test_images_are_evaluated_by_name(trained, prepared, tmp_path, capsys):
    """With a store: the line and the JSON object say which images, and in which form."""
    with pytest.raises(DatasetError, match=r"has no test images; .* with --test DIR"):
        evaluate.main([str(trained), "--split", "test", "--device", "cpu"])
    write_class_folders(tmp_path / "test", {"a": 2, "c": 4}, seed=5)
    words = ["--train", prepared.parent / "images/train", "--val", prepared.parent / "images/val"]
    words += ["--test", tmp_path / "test", "--resize", "64", "--out", tmp_path / "with"]
    prep_imagenet.main(list(map(str, words)))
    capsys.readouterr()
    options = [str(trained), "--data", str(tmp_path / "with"), "--split", "test", "--device", "cpu"]
    evaluate.main([*options, "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["num_images"], found["split"]) == (6, "test")
    assert found["data"] == str(tmp_path / "with")
    assert found["store"] == {"resize": 64, "quality": 90}
    assert [row["class"] for row in found["per_class"]] == ["a", "c"]
    form = "copies of shorter side 64, JPEG quality 90"
    assert f"test images of {tmp_path / 'with'}: {form}\n" in said.err
    dataset = Dataset.open(tmp_path / "with")
    with join("cpu", num_columns=1) as ranks:
        network = open_network(trained, ranks.device)
        (scores,), labels = predict(
            [network], replace(dataset, val=dataset.test), ranks, num_views=1
        )
    assert found["top1_error"] == by_hand(scores, labels)[0]
    evaluate.main(options)
    assert "on 6 test images (centre crop" in capsys.readouterr().out
    evaluate.main([str(trained), "--device", "cpu"])
    assert f"validation images of {prepared}: originals\n" in capsys.readouterr().err


def test_the_runs_own_images_are_evaluated_unless_others_are_given(trained, prepared, capsys):
    evaluate.main([str(trained), "--json", "--device", "cpu"])
    own = json.loads(capsys.readouterr().out)
    evaluate.main([str(trained), "--json", "--device", "cpu", "--data", str(prepared)])
    assert json.loads(capsys.readouterr().out) == own and own["num_images"] == 15
    path = checkpoint.newest(trained / "checkpoints")
    network = open_network(path, torch.device("cpu"))
    moved = network._replace(data=replace(network.data, root="/gone"))
    with pytest.raises(DatasetError, match=r"/gone .*trained on it; else give --data"):
        open_dataset(None, moved)


def test_searching_weights_needs_two_networks(trained, prepared):
    with pytest.raises(ValueError, match="two checkpoints or more"):
        evaluate.main([str(trained), "--data", str(prepared), "--weights", "search"])
