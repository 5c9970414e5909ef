"""A plan for any recipe: epochs of images in some order, each shown by some crops."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.crops import Crops
from pipeline.dataset import ImageList
from pipeline.plan import Views

Order = Callable[[Generator, NDArray[np.int64]], NDArray[np.int64]]
"""From a generator and the labels of all images to the indices that an epoch shows, in order."""


def shuffled(rng: Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every image once, in a random order."""
    return rng.permutation(len(labels))


def in_order(rng: Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every image once, as listed."""
    return np.arange(len(labels))


class EpochPlan:
    """What every step shows: a function of (seed, epoch, place in the epoch).

    Draws do not depend on ranks or on where a run was resumed. An image that an order gives twice
    is shown by two crops.
    """

    def __init__(
        self,
        images: ImageList,
        batch_size: int,
        crops: Crops,
        order: Order,
        seed: int,
        lighting: bool = False,
        drop_last: bool = True,
    ) -> None:
        """`batch_size` counts the images of all ranks, not their views.

        Without `drop_last`, an epoch's last batch is filled up with rows that are not counted.
        """
        self._images, self._crops, self._order = images, crops, order
        self._seed, self._lighting = seed, lighting
        self._num_images = batch_size
        self.batch_size = batch_size * crops.views
        self._draws = lru_cache(maxsize=2)(self._draw)
        length = len(self._draws(0)[0]) // crops.views
        self.steps_per_epoch = length // batch_size if drop_last else -(-length // batch_size)
        self.num_steps = 1 << 62  # as many as are asked for

    def views(self, step: int, part: int, num_parts: int) -> Views:
        """See Plan."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        indices, boxes, mirrored, lighting = self._draws(epoch)
        count = self.batch_size // num_parts
        rows = np.arange(count) + step_in_epoch * self.batch_size + part * count
        counted = rows < len(indices)
        rows = np.where(counted, rows, 0)
        return Views(
            indices[rows],
            np.zeros((count, 2), np.int64),
            mirrored[rows],
            lighting[rows] if self._lighting else np.zeros((count, 3), np.float32),
            counted,
            boxes[rows],
        )

    def _draw(self, epoch: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        chosen = np.asarray(self._order(rng, self._images.labels), np.int64)
        boxes, mirrored = self._crops.draw(rng, self._images.sizes[chosen])
        indices = np.repeat(chosen, self._crops.views)
        shape = (len(indices) if self._lighting else 0, 3)
        return indices, boxes, mirrored, rng.standard_normal(shape, dtype=np.float32)
