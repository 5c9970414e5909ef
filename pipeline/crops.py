"""Which region of an image to show: what recipes of other networks draw."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.draws import Draws


@runtime_checkable
class Crops(Protocol):
    """Draws regions of images, which are shown `size` pixels square.

    `resize` is the shorter side of which that is a part; `views` counts the regions of an image.
    """

    @property
    def size(self) -> int: ...

    @property
    def resize(self) -> int: ...

    @property
    def views(self) -> int: ...

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Boxes [n * views, 4] in images of `sizes` [n, 2], and [n * views] which are mirrored.

        A box is top, left, bottom and right, in the image's own pixels. The views of an image
        follow one another. A box of whole pixels that is `size` high and wide is cut out; any other
        is resized.
        """
        ...


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random share of the image, of a random shape: torchvision's RandomResizedCrop and flip.

    The share of the area is uniform in `scale`, the logarithm of width / height is uniform in that
    of `ratio`. After ten shapes that don't fit, the central crop of the nearest allowed shape. Each
    of `views` has a crop and a flip of its own.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    views: int = 1

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.size, self.flip, self.views)
        for name in ("scale", "ratio"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) or len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} is {value!r}; expected two numbers, the smaller first")
            object.__setattr__(self, name, tuple(value))  # lists come from YAML

    @property
    def resize(self) -> int:
        """See Crops."""
        return self.size

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        draws, sizes = draws.of_views(self.views), np.repeat(sizes, self.views, axis=0)
        shape = self._nearest_shape(sizes)
        start = (sizes - shape) // 2
        missing = np.arange(len(sizes))
        for attempt in range(10):
            drawn = draws.of(missing).uniform(f"crop {attempt}", 4)
            found = self._shape(drawn[:, 0], drawn[:, 1], sizes[missing])
            fits = ((found > 0) & (found <= sizes[missing])).all(axis=1)
            rows, found = missing[fits], found[fits]
            shape[rows] = found
            start[rows] = (drawn[fits, 2:] * (sizes[rows] - found + 1)).astype(np.int64)
            missing = missing[~fits]
            if not len(missing):
                break
        boxes = np.concatenate([start, start + shape], axis=1).astype(np.float64)
        return boxes, _flips(draws, self.flip)

    def _shape(
        self, share: NDArray[np.float64], place: NDArray[np.float64], sizes: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """[n, 2] height and width, from two uniform draws for each image."""
        low, high = self.scale
        area = sizes.prod(axis=1, dtype=np.float64) * (low + (high - low) * share)
        low, high = np.log(self.ratio).tolist()
        ratio = np.exp(low + (high - low) * place)
        return np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=1))).astype(np.int64)

    def _nearest_shape(self, sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """[n, 2] the largest shape in each image with an allowed ratio."""
        height, width = sizes.T.astype(np.float64)
        low, high = self.ratio
        return np.rint(
            np.stack([np.minimum(height, width / low), np.minimum(width, height * high)], axis=1)
        ).astype(np.int64)


@dataclass(frozen=True)
class CentreCrop:
    """The central square of `size` pixels, once the shorter side has `resize`."""

    size: int = 224
    resize: int = 256
    views: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize)

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        corner = np.full(2, (self.resize - self.size) / 2)
        return squares(sizes, corner, self.resize, self.size), np.zeros(len(sizes), bool)


@dataclass(frozen=True)
class RandomCrop:
    """A random square of `size` pixels of the central square of `resize`; a flip (section 4.1).

    Each of `views` has its own.
    """

    size: int = 224
    resize: int = 256
    flip: float = 0.5
    views: int = 1

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize, self.flip, self.views)

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        draws, sizes = draws.of_views(self.views), np.repeat(sizes, self.views, axis=0)
        positions = self.resize - self.size + 1
        corners = np.floor(draws.uniform("crop", 2) * positions)
        return squares(sizes, corners, self.resize, self.size), _flips(draws, self.flip)


@dataclass(frozen=True)
class TenCrops:
    """Four corners and the centre of the central square, as they are and mirrored (section 4.1)."""

    size: int = 224
    resize: int = 256
    views: int = field(default=10, init=False)

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize)

    def draw(
        self, draws: Draws, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        far = self.resize - self.size
        corners = np.array([[0, 0], [0, far], [far, 0], [far, far], [far / 2, far / 2]])
        every = np.repeat(sizes, 5, axis=0)
        boxes = squares(every, np.tile(corners, (len(sizes), 1)), self.resize, self.size)
        boxes = np.repeat(boxes.reshape(len(sizes), 1, 5, 4), 2, axis=1).reshape(-1, 4)
        return boxes, np.tile(np.repeat([False, True], 5), len(sizes))


def squares(
    sizes: NDArray[np.int32], corners: NDArray, resize: int, size: int
) -> NDArray[np.float64]:
    """Boxes [n, 4] of `size` pixels square at `corners` of the central `resize` x `resize` square.

    Resizing the shorter side to `resize` scales both axes by the same factor, which need not give a
    whole number of pixels on the longer side (paper, section 2). Boxes in source pixels need no
    such rounding.
    """
    shorter = sizes.min(axis=1, keepdims=True)
    scale = shorter / resize
    start = (sizes - shorter) / 2 + corners * scale
    return np.concatenate([start, start + size * scale], axis=1)


def _flips(draws: Draws, share: float) -> NDArray[np.bool_]:
    return draws.uniform("flip", 1)[:, 0] < share


def _check(size: int, resize: int, flip: float = 0.0, views: int = 1) -> None:
    if not isinstance(size, int) or not isinstance(resize, int):
        raise ValueError(
            f"size is {size!r} and resize {resize!r}; expected whole pixels, one number each: "
            "crops are square"
        )
    if not 1 <= size <= resize:
        raise ValueError(
            f"size is {size} and resize {resize}; expected 1 or more, and a crop that is no larger "
            "than the resized image"
        )
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip}; expected a share from 0 to 1, such as 0.5")
    if not isinstance(views, int) or views < 1:
        raise ValueError(f"views is {views!r}; expected 1 or more")
