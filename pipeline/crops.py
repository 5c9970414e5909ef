"""Which region of an image to show: what recipes of other networks draw."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.geometry import squares


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
        self, rng: Generator, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Boxes [n * views, 4] in images of `sizes` [n, 2], and [n * views] which are mirrored.

        A box is top, left, bottom and right, in the image's own pixels. The views of an image
        follow one another.
        """
        ...


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random share of the image, of a random shape: torchvision's RandomResizedCrop and flip.

    The share of the area is uniform in `scale`, the logarithm of width / height is uniform in that
    of `ratio`. After ten shapes that don't fit, the central crop of the nearest allowed shape.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    views: int = 1

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.size, self.flip)
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
        self, rng: Generator, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        shape = self._nearest_shape(sizes)
        start = (sizes - shape) // 2
        missing = np.ones(len(sizes), bool)
        for _ in range(10):
            found = self._draw_shape(rng, sizes)
            corner = rng.random((len(sizes), 2))
            fits = missing & ((found > 0) & (found <= sizes)).all(axis=1)
            shape[fits] = found[fits]
            start[fits] = (corner[fits] * (sizes - found + 1)[fits]).astype(np.int64)
            missing &= ~fits
        boxes = np.concatenate([start, start + shape], axis=1).astype(np.float64)
        return boxes, rng.random(len(sizes)) < self.flip

    def _draw_shape(self, rng: Generator, sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """[n, 2] height and width."""
        area = sizes.prod(axis=1, dtype=np.float64) * rng.uniform(*self.scale, len(sizes))
        low, high = np.log(self.ratio).tolist()
        ratio = np.exp(rng.uniform(low, high, len(sizes)))
        sides = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1)
        return np.rint(sides).astype(np.int64)

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
    views: int = 1

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize, 0.0)

    def draw(
        self, rng: Generator, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        corner = np.full(2, (self.resize - self.size) / 2)
        return squares(sizes, corner, self.resize, self.size), np.zeros(len(sizes), bool)


@dataclass(frozen=True)
class RandomCrop:
    """A random square of `size` pixels of the central square of `resize`; a flip (section 4.1)."""

    size: int = 224
    resize: int = 256
    flip: float = 0.5
    views: int = 1

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize, self.flip)

    def draw(
        self, rng: Generator, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        corners = rng.integers(self.resize - self.size, size=(len(sizes), 2), endpoint=True)
        boxes = squares(sizes, corners, self.resize, self.size)
        return boxes, rng.random(len(sizes)) < self.flip


@dataclass(frozen=True)
class TenCrops:
    """Four corners and the centre of the central square, as they are and mirrored (section 4.1)."""

    size: int = 224
    resize: int = 256
    views: int = 10

    def __post_init__(self) -> None:
        """ValueError where the options do not go together."""
        _check(self.size, self.resize, 0.0)

    def draw(
        self, rng: Generator, sizes: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See Crops."""
        far = self.resize - self.size
        corners = np.array([[0, 0], [0, far], [far, 0], [far, far], [far / 2, far / 2]])
        every = np.repeat(sizes, 5, axis=0)
        boxes = squares(every, np.tile(corners, (len(sizes), 1)), self.resize, self.size)
        boxes = np.repeat(boxes.reshape(len(sizes), 1, 5, 4), 2, axis=1).reshape(-1, 4)
        return boxes, np.tile(np.repeat([False, True], 5), len(sizes))


def _check(size: int, resize: int, flip: float) -> None:
    if not isinstance(size, int) or not isinstance(resize, int) or not 1 <= size <= resize:
        raise ValueError(
            f"size is {size!r} and resize {resize!r}; expected whole pixels, and a crop that is no "
            "larger than the resized image"
        )
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip}; expected a share from 0 to 1, such as 0.5")
