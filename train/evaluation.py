"""Error rates on held-out images, of one network or several (paper, sections 4.1 and 6).

Each image is seen from one view or from ten. Several networks form an ensemble: the mean of their
probabilities, with equal weights or searched ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch

_EXPLODED = 100
"""Times the loss by guessing, beyond which training can't come back."""

_LEAST = 1e-300
"""A probability, in whose place 0 would have an infinite logarithm."""

_ROUNDS = 2000
"""Of the search for weights: with these, they are as good as any to 1e-6 in the mean logarithm."""


@dataclass(frozen=True)
class ErrorRates:
    """Error rates in [0, 1]: the label is not the first guess, or not among the first five.

    `loss` is the mean cross-entropy of the images.
    """

    top1_error: float
    top5_error: float
    num_images: int
    loss: float


def guesses(top1_error: float, num_images: int, num_classes: int) -> bool:
    """Whether the error is that of chance: within two standard errors, and a tenth."""
    chance = 1 - 1 / num_classes
    standard_error = (chance * (1 - chance) / num_images) ** 0.5
    return top1_error >= max(0.9 * chance, chance - 2 * standard_error)


def divergence(loss: float, num_classes: int) -> str:
    """How a mean training loss shows that training has diverged; empty where it has not."""
    guessing = math.log(num_classes)
    if loss < _EXPLODED * guessing:
        return ""
    if not math.isfinite(loss):
        return "the loss is non-finite"
    return f"the loss has risen to {loss:.3g} (guessing gives {guessing:.3g})"


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """[N]: rank of the label among the scores [N, C]; 0 means top-1 correct.

    A tie counts against the network, and so does a NaN: equal scores for all classes must not count
    as right.
    """
    own = scores.gather(1, labels[:, None])
    return (~(scores < own)).sum(1) - 1


@torch.no_grad()
def error_rates(
    model: AlexNet, batches: Iterable[Batch], mean: Tensor, add_up: Callable[[Tensor], Tensor]
) -> ErrorRates:
    """Error rates over batches of central squares [n, 3, resize, resize].

    The central crop is shown, less its `mean`. `add_up` adds sums over all that share the
    evaluation. Labels IGNORE_INDEX are skipped.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=mean.device)
    for batch in batches:
        logits = model(centre_view(batch.images, mean.shape[-1]) - mean)
        places = label_ranks(logits, batch.labels.clamp(min=0))
        counted = batch.labels != IGNORE_INDEX
        loss = F.cross_entropy(
            logits.double(), batch.labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        wrong = [((places >= guesses) & counted).sum().double() for guesses in (1, 5)]
        sums += torch.stack([*wrong, loss, counted.sum().double()])
    top1, top5, loss_sum, num_images = add_up(sums).tolist()
    return ErrorRates(
        top1 / num_images, top5 / num_images, round(num_images), loss_sum / num_images
    )


@torch.no_grad()
def probabilities(model: AlexNet, images: Tensor, mean: Tensor, num_views: int) -> Tensor:
    """[N, C] float64: the softmax averaged over 1 or 10 views.

    `images` are central squares [N, 3, resize, resize]. From each view `mean` [3, crop, crop] is
    subtracted, after its flip, as from every crop in training (2012 code).
    """
    crop = mean.shape[-1]
    views = ten_views(images, crop) if num_views == 10 else centre_view(images, crop)[None]
    return torch.stack([model(view - mean).double().softmax(1) for view in views]).mean(0)


def ten_views(images: Tensor, crop: int) -> Tensor:
    """[10, N, 3, crop, crop]: four corners and the centre, then their mirror images (4.1).

    `images` are [N, 3, S, S].
    """
    end = images.shape[-1] - crop
    middle = end // 2
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    five = torch.stack(
        [images[:, :, top : top + crop, left : left + crop] for top, left in corners]
    )
    return torch.cat([five, five.flip(-1)])


def centre_view(images: Tensor, crop: int) -> Tensor:
    """The central `crop` x `crop` pixels of [N, 3, H, W]."""
    top, left = (images.shape[2] - crop) // 2, (images.shape[3] - crop) // 2
    return images[:, :, top : top + crop, left : left + crop]


def mixture(scores: Tensor, weights: Sequence[float]) -> Tensor:
    """[n, C] from the probabilities [M, n, C] of M networks and their weights, which sum to 1."""
    total = torch.zeros_like(scores[0])
    for weight, one in zip(weights, scores, strict=True):
        total += weight * one
    return total


class Outcomes(NamedTuple):
    """What a network says of each of N images: all that errors need of its probabilities.

    With 10,000 classes, these five numbers are a two-thousandth of them.
    """

    labels: NDArray[np.int64]  # [N]
    label_ranks: NDArray[np.int64]  # [N]: see the function
    own: NDArray[np.float64]  # [N]: the label's probability
    guesses: NDArray[np.int64]  # [N]: the likeliest class
    best: NDArray[np.float64]  # [N]: its probability

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "Outcomes":
        """Some of the images."""
        return Outcomes(
            self.labels[places],
            self.label_ranks[places],
            self.own[places],
            self.guesses[places],
            self.best[places],
        )

    def errors(self) -> ErrorRates:
        """Over all images."""
        return ErrorRates(
            float((self.label_ranks >= 1).mean()),
            float((self.label_ranks >= 5).mean()),
            len(self.labels),
            float(-np.log(np.maximum(self.own, _LEAST)).mean()),
        )

    def by_class(self) -> dict[int, ErrorRates]:
        """Over the images of each class that has some, in the order of the labels."""
        order = np.argsort(self.labels, kind="stable")
        ends = np.flatnonzero(np.diff(self.labels[order])) + 1
        return {
            int(self.labels[places[0]]): self.take(places).errors()
            for places in np.split(order, ends)
        }


def outcomes(
    batches: Iterable[tuple[Tensor, Tensor]],
    num_images: int,
    weights: Sequence[Sequence[float]] = (),
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> list[Outcomes]:
    """Of each of M networks, and of their mixtures by each of the `weights`.

    Batches are probabilities [M, n, C] and labels [n] of `num_images` images, besides rows labelled
    IGNORE_INDEX. `gather` makes rows [..., P * n, 5] of all P ranks from those of one, [..., n, 5].
    """
    found: list[Outcomes] = []
    done = 0
    for scores, labels in batches:
        several = [*scores, *(mixture(scores, one) for one in weights)]
        rows = gather(torch.stack([_rows(one, labels) for one in several])).cpu().numpy()
        found = found or [_empty(num_images) for _ in several]
        counted = rows[0, :, 0] != IGNORE_INDEX
        places = slice(done, done := done + int(counted.sum()))
        for one, columns in zip(found, rows[:, counted].swapaxes(1, 2), strict=True):
            for column, values in zip(one, columns, strict=True):
                column[places] = values
    assert done == num_images
    return found


def in_batches(
    scores: NDArray[np.float64], labels: NDArray[np.int64], size: int = 128
) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities [M, N, C] and labels [N], `size` images at a time."""
    for first in range(0, len(labels), size):
        part = slice(first, first + size)
        yield torch.from_numpy(scores[:, part]), torch.from_numpy(labels[part])


def _empty(num_images: int) -> Outcomes:
    """To be filled in place: a list of Fall 2009's images and six networks are a gigabyte."""
    integers, floats = np.empty((3, num_images), np.int64), np.empty((2, num_images))
    return Outcomes(integers[0], integers[1], floats[0], integers[2], floats[1])


def _rows(scores: Tensor, labels: Tensor) -> Tensor:
    """[n, 5] float64: the columns of Outcomes."""
    places = labels.clamp(min=0)
    own = scores.gather(1, places[:, None])[:, 0]
    best, guesses = scores.max(1)
    return torch.stack(
        [labels.double(), label_ranks(scores, places).double(), own, guesses.double(), best], 1
    )


def search_weights(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [M], none negative, summing to 1, whose mixture makes the labels most likely.

    `own` [M, N] are the labels' probabilities by M networks. The logarithm of a mixture is concave
    in its weights: there is one best. Expectation maximisation (Dempster, Laird and Rubin, 1977)
    comes nearer with each of its rounds: a network's new weight is its mean share of the labels'
    probabilities.
    """
    own = np.maximum(own, _LEAST)
    weights = np.full(len(own), 1 / len(own))
    for _ in range(_ROUNDS):
        weights = (weights[:, None] * own / (weights @ own)).mean(1)
    return weights


def halves(labels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Every other image of each class [N], to search weights on, and the rest, to judge them by."""
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        first[np.flatnonzero(labels == label)[::2]] = True
    return first, ~first
