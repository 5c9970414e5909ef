"""What every step shows: a function of (seed, step), with nothing to save."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from alexnet_dali.pipeline.augmentations import Augmentation
from alexnet_dali.pipeline.crops import Crops
from alexnet_dali.pipeline.draws import Draws
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.system.parent import check_process


class Samples(NamedTuple):
    """Some rows of a batch, n of them: which images, and how to show them."""

    indices: NDArray[np.int64]  # [n] which image
    # [n, 4] top, left, bottom and right of the region to show, in the image's own pixels
    boxes: NDArray[np.float64]
    mirrored: NDArray[np.bool_]  # [n] flipped left to right
    lighting: NDArray[np.float32]  # [n, 3] standard normal draws, one for each principal component
    valid: NDArray[np.bool_]  # [n] False where a row only fills up the last batch of an evaluation
    drawn: Mapping[str, NDArray] = MappingProxyType({})  # [n, ...] by augmentations' names

    def part(self, rows: slice) -> "Samples":
        """Some of the rows."""
        return Samples(
            self.indices[rows],
            self.boxes[rows],
            self.mirrored[rows],
            self.lighting[rows],
            self.valid[rows],
            {name: numbers[rows] for name, numbers in self.drawn.items()},
        )


Replaced = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From the images that a plan would show to those that it shows, some of them in others' place."""


class Plan(Protocol):
    """What each step shows; `batch_size` counts the rows of all ranks."""

    num_steps: int
    steps_per_epoch: int
    batch_size: int

    def samples(
        self,
        step: int,
        shard: int,
        num_shards: int,
        replaced: Replaced | None = None,
        count: int = 1,
    ) -> Samples:
        """The rows of a step that fall to `shard`; the shards in order make up the batch.

        Those of `count` steps of one epoch, one after the other. Images are those that `replaced`
        makes of the plan's own.
        """
        ...


class OneStep:
    """A plan of a single step, whose rows are given."""

    num_steps = steps_per_epoch = 1

    def __init__(self, samples: Samples) -> None:
        self._samples, self.batch_size = samples, len(samples.indices)

    def samples(
        self,
        step: int,
        shard: int,
        num_shards: int,
        replaced: Replaced | None = None,
        count: int = 1,
    ) -> Samples:
        """All rows."""
        return self._samples


Order = Callable[[Generator, NDArray[np.int64]], NDArray[np.int64]]
"""From a generator and the labels of all images to the indices that an epoch shows, in order."""


def shuffled(rng: Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every image once, in a random order."""
    return rng.permutation(len(labels))


def in_order(rng: Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every image once, as listed."""
    return np.arange(len(labels))


_ROUNDING = 1e-6
"""By how many pixels a box may leave its image: computed ends are rounded."""


class EpochPlan:
    """Epochs of images in some order, each shown by crops of its own, and lit.

    An epoch has an order; all else is drawn for a batch, from (seed, epoch, place in the epoch). So
    batches are the same for any number of ranks and from any step on, and an image that an order
    gives twice is shown by two crops.
    """

    def __init__(
        self,
        images: ImageList,
        batch_size: int,
        crops: Crops,
        order: Order,
        seed: int,
        *,
        lighting_epochs: int | None = None,
        augmentations: Sequence[Augmentation] = (),
        drop_last: bool = True,
        evenly: bool = False,
    ) -> None:
        """`batch_size` counts the images of all ranks, not their views.

        After `lighting_epochs` all lighting is 0; None means never. Without `drop_last`, an epoch's
        last batch is filled up with rows that are not valid. `evenly`, all shards of it have as
        many that are, the first images once more among them. ValueError where arguments do not fit.
        """
        if isinstance(crops, type) or not isinstance(crops, Crops):
            raise ValueError(f"crops is {crops!r}; expected one such as RandomResizedCrop(224)")
        if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed is {seed!r}; expected a number from 0 to 2^63 - 1")
        self._sizes, self._crops, self._seed = images.sizes, crops, seed
        self._orders = _Orders(images.labels, order, seed)
        self._lighting_epochs, self._augmentations = lighting_epochs, augmentations
        self._num_images, self._evenly = batch_size, evenly
        self.batch_size = batch_size * crops.views
        self._length = self._orders.length
        steps = self._length // batch_size if drop_last else -(-self._length // batch_size)
        if not steps:
            raise ValueError(
                f"global_batch_size is {batch_size}, but an epoch has {self._length} images; "
                "expected a batch of no more than that"
            )
        self.steps_per_epoch = steps
        self.num_steps = 1 << 62  # as many as are asked for

    def samples(
        self,
        step: int,
        shard: int,
        num_shards: int,
        replaced: Replaced | None = None,
        count: int = 1,
    ) -> Samples:
        """See Plan."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        share = self._num_images // num_shards
        firsts = np.arange(step_in_epoch, step_in_epoch + count)[:, None] * self._num_images
        if self._evenly:
            own = np.minimum(share, -((firsts - self._length) // num_shards))
            places = (firsts + shard * own + np.arange(share)).ravel()
            valid = (np.arange(share) < own).ravel()
            shown = places % self._length
        else:
            places = (firsts + (shard * share + np.arange(share))).ravel()
            valid = places < self._length
            shown = np.where(valid, places, 0)
        indices = self._orders.of(epoch)[shown]
        if replaced is not None:
            indices = replaced(indices)
        views, sizes = self._crops.views, self._sizes[indices]
        draws = Draws(self._seed, epoch, places)
        boxes, mirrored = self._crops.draw(draws, sizes)
        _check_boxes(self._crops, boxes, mirrored, np.repeat(sizes, views, axis=0))
        draws = draws.of_views(views)
        return Samples(
            np.repeat(indices, views),
            boxes,
            mirrored,
            self._lighting(draws),
            np.repeat(valid, views),
            {one.name: _drawn(one, draws) for one in self._augmentations},
        )

    def _lighting(self, draws: Draws) -> NDArray[np.float32]:
        if self._lighting_epochs is not None and draws.epoch >= self._lighting_epochs:
            return np.zeros((len(draws), 3), np.float32)
        return draws.normal("lighting", 3).astype(np.float32)


def _check_boxes(
    crops: Crops, boxes: NDArray[np.float64], mirrored: NDArray[np.bool_], sizes: NDArray[np.int32]
) -> None:
    """ValueError where crops draw what is no region: the decoder would blame it on the images."""
    if boxes.shape != (len(sizes), 4) or mirrored.shape != (len(sizes),):
        raise ValueError(
            f"{crops!r} draws boxes {list(boxes.shape)} and mirrored {list(mirrored.shape)}; "
            f"expected [{len(sizes)}, 4] and [{len(sizes)}], with boxes inside the images"
        )
    start, end = boxes[:, :2], boxes[:, 2:]
    inside = (start > -_ROUNDING) & (start < end) & (end < sizes + _ROUNDING)
    for row in np.flatnonzero(~inside.all(axis=1))[:1]:
        raise ValueError(
            f"{crops!r} draws the box {boxes[row].tolist()} in an image {sizes[row, 0]} pixels "
            f"high and {sizes[row, 1]} wide; expected top, left, bottom and right inside it"
        )


def _drawn(augmentation: Augmentation, draws: Draws) -> NDArray[np.float32 | np.int32]:
    """What it draws; ValueError where that fits no graph: DALI would blame it on the images."""
    drawn = np.asarray(augmentation.draw(draws.within(augmentation.name)))
    if drawn.dtype not in (np.float32, np.int32) or drawn.shape[:1] != (len(draws),):
        raise ValueError(
            f"the augmentation {augmentation.name} draws {drawn.dtype} {list(drawn.shape)}; "
            f"expected float32 or int32 for each of {len(draws)} rows"
        )
    return drawn


class _Orders:
    """The order of each epoch; the next one is drawn in the background while one is shown.

    numpy lets go of Python's lock while it shuffles, so that no border of epochs stalls training.
    """

    def __init__(self, labels: NDArray[np.int64], order: Order, seed: int) -> None:
        self._labels, self._order, self._seed = labels.view(), order, seed
        self._labels.flags.writeable = False
        self._thread: ThreadPoolExecutor | None = None  # processes may be forked before it starts
        self._lock, self._process = Lock(), os.getpid()
        self.length = 0
        """Images in an epoch."""
        first: Future[NDArray[np.int64]] = Future()
        first.set_result(self._draw(0))
        self.length, self._drawn = len(first.result()), {0: first}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Orders, (self._labels, self._order, self._seed)

    def of(self, epoch: int) -> NDArray[np.int64]:
        """The indices that an epoch shows; ValueError where the order gives no such."""
        if self._thread is not None:
            check_process(self._process)
        with self._lock:  # loops that share a plan may be in different epochs
            if self._thread is None:
                self._process, self._thread = os.getpid(), ThreadPoolExecutor(1, "order")
            for wanted in (epoch, epoch + 1):
                if wanted not in self._drawn:
                    self._drawn[wanted] = self._thread.submit(self._draw, wanted)
            chosen = self._drawn[epoch]
            # The reader is ahead of the loop, and may be in the next epoch already.
            for old in [other for other in self._drawn if not epoch - 1 <= other <= epoch + 1]:
                del self._drawn[old]
        try:
            return chosen.result()
        except Exception:
            self._drawn.pop(epoch, None)  # who asks again may have better luck
            raise

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        chosen = np.asarray(self._order(rng, self._labels))
        count = len(self._labels)
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
        if self.length not in (0, len(chosen)):
            raise ValueError(
                f"the order gives {len(chosen)} images in epoch {epoch} and {self.length} in "
                "another; expected the same number in every epoch"
            )
        return chosen.astype(np.int64, copy=False)
