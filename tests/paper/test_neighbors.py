"""Nearest neighbours and binary codes, against numpy and data whose neighbours are known."""

import numpy as np
import pytest
import torch

from alexnet_dali.tools.paper import binary_codes, figures, neighbors
from alexnet_dali.train.networks import open_network, predict
from alexnet_dali.train.parallel.ranks import join


def test_the_nearest_agree_with_sorting_all_distances():
    rng = np.random.default_rng(0)
    database, queries = (rng.normal(size=(n, 7)).astype(np.float32) for n in (50, 6))
    distances = ((queries[:, None] - database[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(
        neighbors.nearest(database, queries, 5), distances.argsort(1)[:, :5]
    )


def test_same_label_is_the_share_of_neighbours_with_the_querys_label():
    labels = np.array([0, 0, 1, 1])
    assert neighbors.same_label(labels, np.array([[0, 2], [2, 3]]), np.array([0, 1])) == 3 / 4


def test_features_are_the_last_hidden_layer_for_the_central_crops(trained, dataset):
    with join("cpu", num_columns=1) as ranks:
        network = open_network(trained, ranks.device)
        hidden, pixels = neighbors.describe(network, dataset.val, ranks)
        (scores,), _ = predict([network], dataset, ranks, num_views=1)
    assert (
        hidden.shape == (15, 24)
        and pixels.shape == (15, 3 * 32 * 32)
        and 0 <= pixels.min() <= pixels.max() <= 255
    )
    with torch.no_grad():  # from these features, fc8 computes the network's own scores
        column_outputs = [
            column.fc8(torch.from_numpy(hidden)) for column in network.model.own_columns
        ]
        logits = torch.cat(column_outputs, 1)[:, :3].double().softmax(1)
    np.testing.assert_allclose(logits, scores, atol=1e-5)


def clusters(seed, count):
    """Points around eight centres in 40 dimensions, and the number of the centre of each."""
    centres = np.random.default_rng(0).normal(size=(8, 40))
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=count)
    return (centres[labels] + 0.3 * rng.normal(size=(count, 40))).astype(np.float32), labels


def small_autoencoder(monkeypatch):
    """Make the autoencoder small: enough for 40 dimensions, in a tenth of the time."""
    for name, value in {"_STEPS": 900, "_HIDDEN": 64, "_BATCH": 64}.items():
        monkeypatch.setattr(binary_codes, name, value)


def test_codes_are_packed_bits_and_their_hamming_neighbours_share_a_cluster(monkeypatch):
    small_autoencoder(monkeypatch)
    (train, labels), (val, wanted) = clusters(1, 600), clusters(2, 80)
    encode = binary_codes.learn(train, 16)
    database, queries = encode(train), encode(val)
    assert database.shape == (600, 2) and database.dtype == np.uint8
    bits, asked = np.unpackbits(database, axis=1), np.unpackbits(queries, axis=1)
    nearest = (asked[:, None] != bits[None]).sum(-1).argsort(1, kind="stable")[:, :10]
    assert (labels[nearest] == wanted[:, None]).mean() > 0.95  # chance: 1 in 8
    rows = binary_codes.compare(train, val, (labels, wanted), [16])
    assert [row.bytes_per_image for row in rows] == [160, 2]
    assert rows[0].same_label > 0.95 and rows[1].same_label > 0.95
    assert len(binary_codes.table(rows).splitlines()) == 4


def test_noise_makes_the_codes_binary(monkeypatch):
    """With noise, the units learn values far from the threshold, on either side."""
    small_autoencoder(monkeypatch)
    train, _ = clusters(1, 600)
    saturated = []
    for noise in (0.0, 4.0):
        monkeypatch.setattr(binary_codes, "_NOISE", noise)
        kept = []
        monkeypatch.setattr(
            binary_codes,
            "AutoEncoder",
            lambda *sizes, kept=kept: kept.append(Real(*sizes)) or kept[0],
        )
        binary_codes.learn(train, 16)
        features = torch.from_numpy((train - train.mean(0)) / train.std())
        values = torch.sigmoid(kept[0].encoder(features))
        saturated.append(((values < 0.05) | (values > 0.95)).double().mean().item())
    assert saturated[1] > 0.7 > saturated[0]


Real = binary_codes.AutoEncoder


@pytest.mark.parametrize(
    "figure, more", [("neighbors", ["--images", "3"]), ("codes", ["--bits", "8", "16"])]
)
def test_the_commands_draw_a_figure_and_print_the_share(
    figure, more, trained, prepared, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(binary_codes, "_STEPS", 5)
    out = tmp_path / "figure.png"
    figures.main(
        [figure, str(trained), "--data", str(prepared), "--device", "cpu", "--out", str(out), *more]
    )
    assert out.stat().st_size > 5000 and out.with_suffix(".svg").is_file()
    assert "same label among the ten nearest" in capsys.readouterr().out


def test_queries_come_from_different_classes(dataset):
    chosen = neighbors.choose(dataset, 3, seed=0)
    assert sorted(dataset.val.labels[chosen]) == [0, 1, 2]
    assert len(set(neighbors.choose(dataset, 9, seed=0))) == 9
