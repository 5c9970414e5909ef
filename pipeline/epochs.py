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
        if isinstance(crops, type) or not isinstance(crops, Crops):
            raise ValueError(f"crops is {crops!r}; expected one such as RandomResizedCrop(224)")
        if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed is {seed!r}; expected a number from 0 to 2^63 - 1")
        self._images, self._crops, self._order = images, crops, order
        self._seed, self._lighting = seed, lighting
        self._num_images = batch_size
        self.batch_size = batch_size * crops.views
        self._draws = lru_cache(maxsize=2)(self._draw)
        self._length = len(self._chosen(0, self._generator(0)))
        steps = self._length // batch_size if drop_last else -(-self._length // batch_size)
        if not steps:
            raise ValueError(
                f"global_batch_size is {batch_size}, but an epoch has {self._length} images; "
                "expected a batch of no more than that"
            )
        self.steps_per_epoch = steps
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
        rng = self._generator(epoch)
        chosen = self._chosen(epoch, rng)
        if len(chosen) != self._length:
            raise ValueError(
                f"the order gives {len(chosen)} images in epoch {epoch} and {self._length} in the "
                "first; expected the same number in every epoch"
            )
        boxes, mirrored = self._crops.draw(rng, self._images.sizes[chosen])
        indices = np.repeat(chosen, self._crops.views)
        shape = (len(indices) if self._lighting else 0, 3)
        return indices, boxes, mirrored, rng.standard_normal(shape, dtype=np.float32)

    def _generator(self, epoch: int) -> Generator:
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch]))

    def _chosen(self, epoch: int, rng: Generator) -> NDArray[np.int64]:
        """The order of an epoch; ValueError where it gives no indices of images."""
        labels = self._images.labels.view()
        labels.flags.writeable = False
        chosen = np.asarray(self._order(rng, labels))
        count = len(self._images)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"the order gives {chosen.dtype} {list(chosen.shape)} in epoch {epoch}; expected "
                "whole numbers, one for each image to show"
            )
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
            raise ValueError(
                f"the order gives numbers from {chosen.min()} to {chosen.max()} in epoch {epoch}; "
                f"expected indices of images, 0 to {count - 1}"
            )
        return chosen.astype(np.int64)
