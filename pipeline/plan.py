"""What every step shows the network: a function of (seed, step), with nothing to save."""

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Views(NamedTuple):
    """How to show some rows of a batch, n of them."""

    indices: NDArray[np.int64]  # [n] which image
    # [n, 2] top and left of the crop, in pixels of the resized central square
    corners: NDArray[np.int64]
    mirrored: NDArray[np.bool_]  # [n] flipped left to right
    lighting: NDArray[np.float32]  # [n, 3] standard normal draws, one for each principal component
    # [n] False where an image only fills up the last batch of an evaluation
    counted: NDArray[np.bool_]
    # [n, 4] top, left, bottom and right of the region to show, in the image's own pixels; where it
    # is given, `corners` are not used
    boxes: NDArray[np.float64] | None = None

    def first(self, count: int) -> "Views":
        """The first `count` rows."""
        rows = {name: rows[:count] for name, rows in self._asdict().items() if rows is not None}
        return self._replace(**rows)


class Plan(Protocol):
    """Which images each step shows, and how; `batch_size` counts those of all ranks."""

    num_steps: int
    steps_per_epoch: int
    batch_size: int

    def views(self, step: int, part: int, num_parts: int) -> Views:
        """The rows of a step that fall to `part` of `num_parts`.

        The parts in order make up the batch.
        """
        ...


class TrainingPlan:
    """Each epoch shows every image at most once, in a new order.

    Each image gets a crop, a flip and a lighting of its own. The order depends on (seed, epoch) and
    the rest on (seed, epoch, image) alone, so the batches are the same for any number of ranks and
    from any step on. An epoch drops its last partial batch. Crops are uniform over all positions
    inside the central square, flips are fair (paper, section 4.1).
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        margin: int,
        seed: int,
        num_steps: int,
        crops_and_flips: bool = True,
        lighting_epochs: int | None = None,
    ) -> None:
        """`margin` is the side of the resized square less that of the crop, in pixels.

        `batch_size` counts the images of all ranks. Without `crops_and_flips` every image is shown
        by its central crop; after `lighting_epochs` all lighting is 0.
        """
        self.num_steps = num_steps
        self.steps_per_epoch = num_images // batch_size
        self.batch_size = batch_size
        # Two epochs: the reader runs ahead of the trainer, and enters the next epoch first.
        self._draws = lru_cache(maxsize=2)(
            lambda epoch: _draw_epoch(num_images, margin, seed, epoch)
        )
        self._centre = None if crops_and_flips else margin // 2
        self._lighting_epochs = lighting_epochs

    def views(self, step: int, part: int, num_parts: int) -> Views:
        """See Plan."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order, corners, mirrored, lighting = self._draws(epoch)
        first, count = _rows(self.batch_size, part, num_parts)
        start = step_in_epoch * self.batch_size + first
        indices = order[start : start + count]
        views = Views(
            indices, corners[indices], mirrored[indices], lighting[indices], np.ones(count, bool)
        )
        if self._centre is not None:
            views = views._replace(
                corners=np.full_like(views.corners, self._centre), mirrored=np.zeros(count, bool)
            )
        if self._lighting_epochs is not None and epoch >= self._lighting_epochs:
            views = views._replace(lighting=np.zeros_like(views.lighting))
        return views


class EvaluationPlan:
    """Every image exactly once, in order, as it is.

    The last batch is filled up with rows that are not counted.
    """

    def __init__(self, num_images: int, batch_size: int) -> None:
        self.num_steps = self.steps_per_epoch = -(-num_images // batch_size)
        self._num_images = num_images
        self.batch_size = batch_size

    def views(self, step: int, part: int, num_parts: int) -> Views:
        """See Plan."""
        first, count = _rows(self.batch_size, part, num_parts)
        indices = np.arange(count) + step * self.batch_size + first
        counted = indices < self._num_images
        return Views(
            np.where(counted, indices, 0),
            np.zeros((count, 2), np.int64),
            np.zeros(count, bool),
            np.zeros((count, 3), np.float32),
            counted,
        )


def _rows(batch_size: int, part: int, num_parts: int) -> tuple[int, int]:
    assert batch_size % num_parts == 0, (batch_size, num_parts)
    count = batch_size // num_parts
    return part * count, count


def _draw_epoch(
    num_images: int, margin: int, seed: int, epoch: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """The order of the images, and the crop corner, flip and lighting of each image."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = rng.permutation(num_images)
    corners = rng.integers(margin, size=(num_images, 2), endpoint=True, dtype=np.int16)
    mirrored = rng.integers(2, size=num_images, dtype=np.uint8).astype(bool)
    lighting = rng.standard_normal((num_images, 3), dtype=np.float32)
    return order, corners, mirrored, lighting
