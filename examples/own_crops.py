"""Crops and an order of your own: classes alike in number, by crops of the middle that grow.

python examples/own_crops.py prepared/imagenet
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from alexnet_dali.pipeline import DataLoader
from alexnet_dali.pipeline.draws import Draws


@dataclass(frozen=True)
class Growing:
    """Squares about the middle: half of the shorter side at first, all of it after ten epochs."""

    size: int = 224
    resize: int = 224
    views: int = 1

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See pipeline.crops.Crops. Draw with `draws` alone: a run then resumes exactly."""
        side = sizes.min(axis=1, keepdims=True) * min(1.0, 0.5 + 0.05 * draws.epoch)
        start = (sizes - side) * (0.4 + 0.2 * draws.uniform("growing", 2))
        mirrored = draws.uniform("growing flip", 1)[:, 0] < 0.5
        return np.concatenate([start, start + side], axis=1), mirrored


def balanced(rng: Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many images as there are, each class with the same chance."""
    weights = 1 / np.bincount(labels)[labels]
    return rng.choice(len(labels), len(labels), p=weights / weights.sum())


if __name__ == "__main__":
    loader = DataLoader(sys.argv[1], global_batch_size=32, crops=Growing(), order=balanced)
    images, labels = next(iter(loader))
    print(list(images.shape), np.bincount(labels, minlength=len(loader.classes)).tolist())
