"""Nearest neighbours by the last hidden layer, beside those by pixels (figure 4, right)."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch.nn import functional as F

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.decode import decode
from alexnet_dali.pipeline.feeder import IGNORE_INDEX
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.tools.paper.drawing import RED, Figure
from alexnet_dali.train.evaluation import centre_view
from alexnet_dali.train.networks import Trained, batches
from alexnet_dali.train.parallel.ranks import Ranks

COUNT = 10
"""Neighbours of which the share with the query's label is reported."""
_QUERIES_TOGETHER = 64
"""Their distances to all of ImageNet are 330 MB."""
PIXEL_SIDE = 32
"""Images are compared in pixels at this size: small enough for millions of them."""


def check_alone(ranks: Ranks) -> None:
    """ValueError on several ranks."""
    if ranks.world_size > 1:
        raise ValueError(
            f"found {ranks.world_size} ranks; this command is for one process, without torchrun"
        )


def some(images: ImageList, count: int) -> ImageList:
    """`count` of the images, chosen at random, in their order; all, if there are no more."""
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:count]))


def describe(
    network: Trained, images: ImageList, ranks: Ranks
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Last hidden layer [N, width] and pixels [N, 3 * 32 * 32] of all images, in their order.

    ValueError on several ranks, each of which would see its own part alone.
    """
    check_alone(ranks)
    width = network.model.full_state()["fc8.weight"].shape[1]
    hidden = np.empty((len(images), width), np.float32)  # filled in place: for ImageNet it is 21 GB
    pixels = np.empty((len(images), 3 * PIXEL_SIDE**2), np.float32)
    done = 0
    with torch.no_grad():
        for batch in batches(network, images, ranks, batch_size=128):
            kept = batch.labels != IGNORE_INDEX
            view = centre_view(batch.images, network.data.crop)
            places = slice(done, done := done + int(kept.sum()))
            hidden[places] = network.model.last_hidden(view - network.mean)[kept].float().cpu()
            pixels[places] = F.adaptive_avg_pool2d(view, PIXEL_SIDE)[kept].flatten(1).cpu()
    return hidden, pixels


def nearest(
    database: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """[Q, count]: the rows of `database` [N, D] that are nearest to each query [Q, D].

    ValueError where it has fewer rows than that.
    """
    if len(database) < count:
        raise ValueError(
            f"found {len(database)} training images; expected {count} or more to find neighbours "
            "among"
        )
    vectors = torch.from_numpy(database)
    half_squares = vectors.square().sum(1) / 2
    rows = [
        torch.addmm(half_squares, part, vectors.T, alpha=-1).topk(count, largest=False).indices
        for part in torch.from_numpy(queries).split(_QUERIES_TOGETHER)
    ]
    return torch.cat(rows).numpy()


def same_label(
    labels: NDArray[np.int64], found: NDArray[np.int64], wanted: NDArray[np.int64]
) -> float:
    """The share of `found` [Q, count] whose label is that of its query [Q]."""
    return float((labels[found] == wanted[:, None]).mean())


def find(
    network: Trained, dataset: Dataset, ranks: Ranks, count: int
) -> tuple[list[NDArray[np.int64]], list[float]]:
    """By the last hidden layer and by pixels: the training images nearest to each validation image.

    They are [N, `count` or more], the nearest first. Then the two shares of the ten nearest that
    have the query's label.
    """
    train, val = (describe(network, images, ranks) for images in (dataset.train, dataset.val))
    found = [nearest(database, wanted, max(count, COUNT)) for database, wanted in zip(train, val)]
    labels, wanted = np.asarray(dataset.train.labels), np.asarray(dataset.val.labels)
    return found, [same_label(labels, one[:, :COUNT], wanted) for one in found]


def draw(
    network: Trained, dataset: Dataset, ranks: Ranks, queries: NDArray[np.int64], count: int
) -> Figure:
    """A row for each of the validation images `queries`: itself, and its neighbours.

    Prints how often the ten nearest training images share the label, over all validation images.
    """
    found, shares = find(network, dataset, ranks, count)
    wanted = np.asarray(dataset.val.labels)
    print(
        f"same label among the ten nearest: {shares[0]:.1%} by features, {shares[1]:.1%} by pixels"
    )
    figure = Figure(
        figsize=(1.2 * (2 * count + 1.5), 1.2 * len(queries) + 0.5), layout="constrained"
    )
    panels: Any = figure.subfigures(1, 3, width_ratios=[1, count, count], wspace=0.02)
    left, middle, right = panels
    for axes, query in zip(left.subplots(len(queries), 1, squeeze=False)[:, 0], queries):
        _show(axes, dataset.val, query)
    for part, places in zip((middle, right), found):
        for row, query in zip(part.subplots(len(queries), count, squeeze=False), queries):
            for axes, neighbor in zip(row, places[query]):
                _show(axes, dataset.train, neighbor, int(wanted[query]))
    left.suptitle("query", fontsize=10)
    middle.suptitle(
        f"nearest by the last hidden layer ({shares[0]:.0%} of the ten nearest are of its class)",
        fontsize=10,
    )
    right.suptitle(f"nearest by pixels ({shares[1]:.0%})", fontsize=10)
    figure.supxlabel("red frame: of another class than the query", fontsize=9)
    return figure


def _show(axes: Axes, images: ImageList, index: int, wanted: int | None = None) -> None:
    """Show the image, framed in red if it is not of the wanted class."""
    axes.imshow(decode(images.content(int(index))))
    axes.set(xticks=[], yticks=[])
    wrong = wanted is not None and images.labels[index] != wanted
    axes.spines[:].set(color=RED, linewidth=2, visible=wrong)


def choose(dataset: Dataset, count: int, seed: int) -> NDArray[np.int64]:
    """Validation images of as many classes as there are rows, in the order of the classes."""
    order = np.random.default_rng(seed).permutation(len(dataset.val))
    labels = np.asarray(dataset.val.labels)[order]
    _, first = np.unique(labels, return_index=True)
    chosen = np.concatenate([order[np.sort(first)], np.delete(order, first)])[:count]
    return chosen[np.argsort(np.asarray(dataset.val.labels)[chosen], kind="stable")]
