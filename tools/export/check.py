"""An exported network is held against the original before it is written."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.train.data import evaluation_batches
from alexnet_dali.train.evaluation import probabilities
from alexnet_dali.train.networks import Trained
from alexnet_dali.train.parallel.ranks import join

TOLERANCE = 1e-4
"""By which probabilities may differ, as a share of the likeliest's: sums of float32 numbers depend
on their order.
"""

NUM_RANDOM, NUM_IMAGES = 16, 64

Answer = Callable[[Tensor], NDArray[np.float32]]
"""Central squares [N, 3, resize, resize] to probabilities [N, C]."""


def check_alike(network: Trained, answer: Answer, dataset: Dataset | None) -> str:
    """What was compared, in words; ValueError where `answer` is not the network's.

    It is asked for random images, and for validation images of `dataset` where they can be read.
    """
    size = network.data.resize
    draws = torch.Generator().manual_seed(0)
    shape = (NUM_RANDOM, 3, size, size)
    compared = {"random images": torch.randint(0, 256, shape, generator=draws).float()}
    images = None if dataset is None else _validation_images(network, dataset)
    if images is not None:
        compared["validation images"] = images
    worst = max(_difference(network, answer, squares) for squares in compared.values())
    what = " and ".join(f"{len(squares)} {kind}" for kind, squares in compared.items())
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the exported network is not the original: on {what}, probabilities differ by up to "
            f"{worst:.1e} of the likeliest; expected {TOLERANCE:.0e} at most. Nothing is written"
        )
    return f"on {what}, probabilities differ by {worst:.1e} of the likeliest at most"


def _difference(network: Trained, answer: Answer, squares: Tensor) -> float:
    expected = probabilities(network.model, squares, network.mean, num_views=1).numpy()
    return float((np.abs(answer(squares) - expected).max(1) / expected.max(1)).max())


def _validation_images(network: Trained, dataset: Dataset) -> Tensor | None:
    """[N, 3, resize, resize], evenly spread over the list; None where they can't be read."""
    data, images = network.data, dataset.val
    try:
        places = np.linspace(0, len(images) - 1, min(NUM_IMAGES, len(images))).astype(np.int64)
        with join("cpu", num_columns=1) as ranks:
            chosen = images.take(places)
            return next(evaluation_batches(chosen, data, ranks, len(places))).images.clone()
    except (OSError, ValueError):
        return None
