"""Error rates on held-out images, of one network or several (paper, sections 4.1 and 6).

Each image is seen from one view or from ten. Several networks form an ensemble: the mean of their
probabilities, with equal weights or searched ones.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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


def mixture(
    probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N, C] from [M, N, C] of M networks and their weights [M], which sum to 1."""
    return np.tensordot(weights, probabilities, axes=1)


def search_weights(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weights [M], none negative, summing to 1, whose mixture makes the labels [N] most likely.

    The logarithm of a mixture is concave in its weights: there is one best. Expectation
    maximisation (Dempster, Laird and Rubin, 1977) comes nearer with each of its rounds: a network's
    new weight is its mean share of the labels' probabilities.
    """
    own = np.maximum(probabilities[:, np.arange(len(labels)), labels], _LEAST)
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


def rates(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> ErrorRates:
    """Error rates of probabilities [N, C]."""
    places = label_ranks(torch.from_numpy(scores), torch.from_numpy(labels)).numpy()
    own = scores[np.arange(len(labels)), labels]
    return ErrorRates(
        float((places >= 1).mean()),
        float((places >= 5).mean()),
        len(labels),
        float(-np.log(np.maximum(own, _LEAST)).mean()),
    )
