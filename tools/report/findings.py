"""What a trained network makes of the images."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.decode import decode
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import short
from alexnet_dali.tools.evaluate import interval, per_class
from alexnet_dali.tools.paper import neighbors
from alexnet_dali.tools.paper.figures import likeliest
from alexnet_dali.tools.report.charts import photograph
from alexnet_dali.tools.show_batch import hardest
from alexnet_dali.train.evaluation import ErrorRates, Outcomes
from alexnet_dali.train.networks import Trained, judge, predict
from alexnet_dali.train.parallel.ranks import Ranks

_PREDICTIONS, _HARDEST, _PAIRS, _QUERIES, _NEIGHBORS = 8, 12, 15, 5, 6
_DATABASE, _ASKED = 20_000, 1000
"""So many training images are searched at most, for so many validation images."""


class Guess(NamedTuple):
    """A class, and the probability that the network gives it."""

    name: str
    probability: float
    right: bool


class Picture(NamedTuple):
    """An image as a data URI, its file, its class, and what the network says of it."""

    uri: str
    file: str
    name: str
    guesses: list[Guess]
    own: float  # probability of its class


class Neighbor(NamedTuple):
    """A training image near a query."""

    uri: str
    file: str
    name: str
    same: bool


class Pair(NamedTuple):
    """`num_images` of the `out_of` images of a class are taken for another."""

    label: int
    guess: int
    num_images: int
    out_of: int


class Findings(NamedTuple):
    """The network on the validation images, and on some of the training images."""

    path: Path
    folder: Path
    fingerprint: str
    same_images: bool  # as the network was trained on
    made_by: str | None  # the command that prepared them
    num_train: int
    names: list[str]
    classes: list[str]
    errors: ErrorRates
    interval: tuple[float, float]  # of the top-1 error, 95 %
    per_class: list[dict[str, Any]]  # the worst first
    pairs: list[Pair]
    predictions: list[Picture]
    hardest: list[Picture]
    neighbors: list[tuple[Picture, list[Neighbor]]]
    same_label: tuple[float, float]  # of the ten nearest: by features, by pixels
    searched: tuple[int, int]  # training images, validation images


def look(network: Trained, trained_on: str, dataset: Dataset, ranks: Ranks) -> Findings:
    """Evaluate all validation images, and find neighbours; DatasetError where classes differ.

    `trained_on` is the fingerprint of the network's own images.
    """
    (found,) = judge([network], dataset, ranks, num_views=1)
    names = short(dataset.names)
    some = np.random.default_rng(0).permutation(len(dataset.val))[:_PREDICTIONS]
    about = yaml.safe_load((dataset.folder / "dataset.yaml").read_text())
    near, shares, searched = _near(network, dataset, ranks, names)
    errors = found.errors()
    return Findings(
        network.path,
        dataset.folder,
        dataset.fingerprint,
        dataset.fingerprint == trained_on,
        about.get("made_by"),
        len(dataset.train),
        names,
        dataset.classes,
        errors,
        interval(errors),
        class_rows(found, dataset),
        pairs(found.labels, found.guesses)[:_PAIRS],
        _pictures(network, dataset, ranks, some, names),
        _pictures(network, dataset, ranks, hardest(found)[:_HARDEST], names),
        near,
        shares,
        searched,
    )


def class_rows(images: Outcomes, dataset: Dataset) -> list[dict[str, Any]]:
    """A row for each class, the worst first: tools.evaluate's, and what it is mostly taken for."""
    names = short(dataset.names)
    mistaken = {pair.label: pair for pair in reversed(pairs(images.labels, images.guesses))}
    rows = [
        {**row, "name": names[label], "taken_for": mistaken.get(int(label))}
        for label, row in zip(np.unique(images.labels), per_class(images, dataset))
    ]
    return sorted(rows, key=lambda row: (-row["top1_error"], -row["top5_error"]))


def pairs(labels: NDArray[np.int64], guesses: NDArray[np.int64]) -> list[Pair]:
    """All pairs of a class and another that its images are taken for, the most frequent first."""
    wrong = labels != guesses
    found, counts = np.unique(np.stack([labels[wrong], guesses[wrong]]), axis=1, return_counts=True)
    sizes = np.bincount(labels)
    return [
        Pair(*map(int, (*found[:, place], counts[place], sizes[found[0, place]])))
        for place in np.argsort(-counts, kind="stable")
    ]


def _near(
    network: Trained, dataset: Dataset, ranks: Ranks, names: list[str]
) -> tuple[list[tuple[Picture, list[Neighbor]]], tuple[float, float], tuple[int, int]]:
    """Queries of different classes with the training images nearest to them."""
    train, val = neighbors.some(dataset.train, _DATABASE), neighbors.some(dataset.val, _ASKED)
    small = replace(dataset, train=train, val=val)
    found, shares = neighbors.find(network, small, ranks, _NEIGHBORS)
    queries = neighbors.choose(small, _QUERIES, seed=0)
    rows = []
    for query, picture in zip(queries, _pictures(network, small, ranks, queries, names)):
        label = val.labels[query]
        near = [
            Neighbor(
                photograph(decode(train.content(int(index)))),
                train.name(int(index)),
                names[train.labels[index]],
                bool(train.labels[index] == label),
            )
            for index in found[0][query][:_NEIGHBORS]
        ]
        rows.append((picture, near))
    return rows, (shares[0], shares[1]), (len(train), len(val))


def _pictures(
    network: Trained, dataset: Dataset, ranks: Ranks, places: NDArray[np.int64], names: list[str]
) -> list[Picture]:
    """Some of the validation images, with what the network says of them."""
    some = replace(dataset, val=dataset.val.take(places))
    scores = predict([network], some, ranks, num_views=1)[0][0]
    return [_picture(some.val, index, row, names) for index, row in enumerate(scores)]


def _picture(
    images: ImageList, index: int, scores: NDArray[np.float64], names: list[str]
) -> Picture:
    label = images.labels[index]
    guesses = [Guess(names[k], float(scores[k]), bool(k == label)) for k in likeliest(scores)]
    uri = photograph(decode(images.content(int(index))))
    return Picture(uri, images.name(int(index)), names[label], guesses, float(scores[label]))
