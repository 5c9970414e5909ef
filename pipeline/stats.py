"""Statistics of the training pixels: the mean image, and the colours of lighting noise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.arrays import read_arrays

STATS_SIZE = 256
"""Side of the square that statistics are taken over (paper, section 2)."""

_SHAPES = {
    "mean_image": (STATS_SIZE, STATS_SIZE, 3),
    "channel_mean": (3,),
    "eigenvalues": (3,),
    "eigenvectors": (3, 3),
}

_OFFSET = 128.0  # moments about mid-grey lose fewer digits than moments about black


@dataclass(frozen=True)
class PixelStats:
    """Statistics of RGB pixels, 0..255, over the central 256x256 of every training image.

    `mean_image` [256, 256, 3] float32; `channel_mean` [3] float64; `eigenvalues` [3], variances in
    grey levels squared, largest first; `eigenvectors` [3, 3], one a column, of the RGB covariance
    (paper, section 4.1).
    """

    mean_image: NDArray[np.float32]
    channel_mean: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]

    def mean_at(self, size: int) -> NDArray[np.float32]:
        """The mean image [size, size, 3] at another resolution, by area averaging.

        It is exact where size divides 256.
        """
        weights = _area_weights(STATS_SIZE, size)
        return np.einsum("ij,jkc,lk->ilc", weights, self.mean_image, weights, optimize=True).astype(
            np.float32
        )

    def channel_std(self) -> NDArray[np.float64]:
        """[3], in grey levels: the deviation of each channel over all pixels."""
        return np.sqrt((self.eigenvectors**2 * self.eigenvalues).sum(axis=1))

    def lighting_directions(self) -> NDArray[np.float64]:
        """[3, 3], in grey levels: eigenvectors times the root of their eigenvalues (2012 code).

        Column i belongs to component i.
        """
        return self.eigenvectors * np.sqrt(self.eigenvalues)

    def save(self, file: BinaryIO) -> None:
        """Write `stats.npz`; its entry `scale` says in words what the numbers mean."""
        scale = (
            "RGB pixels 0..255; eigenvalues are variances in grey levels squared; "
            "eigenvectors are columns"
        )
        np.savez(
            file,
            mean_image=self.mean_image,
            channel_mean=self.channel_mean,
            eigenvalues=self.eigenvalues,
            eigenvectors=self.eigenvectors,
            scale=np.array(scale),
        )

    @classmethod
    def load(cls, path: Path) -> "PixelStats":
        """Read what `save` wrote; ValueError where `path` holds anything else."""
        try:
            return cls.of(read_arrays(path))
        except TypeError as error:
            raise ValueError(f"{path}: {error}; rerun alexnet prep") from error

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray]) -> "PixelStats":
        """From arrays by name, others among them; TypeError for those of another kind."""
        for key, shape in _SHAPES.items():
            found = arrays.get(key)
            if found is None or found.shape != shape or found.dtype.kind != "f":
                raise TypeError(f"expected numbers {list(shape)} in {key}")
            if not np.isfinite(found).all():
                raise TypeError(f"expected finite numbers in {key}")
        if arrays["eigenvalues"].min() < 0:
            raise TypeError("expected no number below 0 in eigenvalues")
        return cls(**{key: arrays[key] for key in _SHAPES})


@dataclass
class PixelSums:
    """Sums over images [256, 256, 3] uint8, from which PixelStats are computed.

    The sums of parts add up to those of the whole.
    """

    count: int = 0
    # Room for 16 million images; 64 bits would take five times as long to add to.
    total: NDArray[np.uint32] = field(
        default_factory=lambda: np.zeros((STATS_SIZE, STATS_SIZE, 3), np.uint32)
    )
    moments: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))

    def add(self, image: NDArray[np.uint8]) -> None:
        """Count one image [256, 256, 3]."""
        planes = np.empty((3, STATS_SIZE**2), np.float32)
        np.subtract(image.reshape(-1, 3).T, np.float32(_OFFSET), out=planes)
        self.count += 1
        self.total += image
        # Nine dot products are three times as fast as one product of matrices.
        self.moments += [[one @ other for one in planes] for other in planes]

    def merge(self, other: "PixelSums") -> None:
        """Add the sums over another set of images."""
        self.count += other.count
        self.total += other.total
        self.moments += other.moments

    def stats(self) -> PixelStats:
        """The statistics of everything added so far."""
        mean_image = self.total / self.count
        channel_mean = mean_image.mean(axis=(0, 1))
        centre = channel_mean - _OFFSET
        covariance = self.moments / (self.count * STATS_SIZE**2) - np.outer(centre, centre)
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        # Grey images have one direction only; rounding may leave the other variances a hair below
        # zero.
        eigenvalues = np.maximum(eigenvalues[::-1], 0.0)
        return PixelStats(
            mean_image.astype(np.float32), channel_mean, eigenvalues, eigenvectors[:, ::-1]
        )


def _area_weights(old: int, new: int) -> NDArray[np.float64]:
    """[new, old]: the share of each old cell in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    upper = np.minimum(edges[1:, None], cells + 1)
    lower = np.maximum(edges[:-1, None], cells)
    return np.clip(upper - lower, 0.0, None) * (new / old)
