"""Statistics of the training pixels: the mean image, and the colours of lighting noise."""

import math
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

_SWEEPS = 8
"""Rotations of each pair: each sweep squares what is left off the diagonal; five do."""

_DOT = 8192
"""Pixels in a dot product."""

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
        weights = area_weights(STATS_SIZE, size)
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
        # Sums of whole numbers are exact in float64, whatever order a CPU's kind adds them up in.
        planes = np.empty((3, STATS_SIZE**2))
        np.subtract(image.reshape(-1, 3).T, _OFFSET, out=planes)
        self.count += 1
        self.total += image
        # Dot products take a third of what a product of matrices takes. Longer ones OpenBLAS gives
        # to threads, which wait for each other where every core has a worker.
        parts = planes.reshape(3, -1, _DOT)
        self.moments += [[sum(map(np.dot, one, other)) for one in parts] for other in parts]

    def merge(self, other: "PixelSums") -> None:
        """Add the sums over another set of images."""
        self.count += other.count
        self.total += other.total
        self.moments += other.moments

    def stats(self) -> PixelStats:
        """The statistics of everything added so far."""
        pixels = self.count * STATS_SIZE**2
        mean_image = (self.total / self.count).astype(np.float32)
        channel_mean = self.total.sum(axis=(0, 1), dtype=np.uint64) / pixels
        centre = channel_mean - _OFFSET
        covariance = self.moments / pixels - np.outer(centre, centre)
        return PixelStats(mean_image, channel_mean, *_eigen(covariance))


def _eigen(symmetric: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues [3] of a covariance, largest first, and eigenvectors [3, 3], one a column.

    Jacobi's rotations, in Python's numbers: LAPACK's last bits, and the signs of its vectors, are
    not the same on every kind of CPU. Here the last part is below 0 in the first vector alone, as
    LAPACK mostly has it.
    """
    a, vectors = symmetric.tolist(), np.eye(3).tolist()
    for p, q in _SWEEPS * [(0, 1), (0, 2), (1, 2)]:
        if a[p][q] == 0.0:
            continue
        half = (a[q][q] - a[p][p]) / (2 * a[p][q])
        tangent = math.copysign(1.0, half) / (abs(half) + math.sqrt(half * half + 1))
        cosine = 1 / math.sqrt(tangent * tangent + 1)
        sine = tangent * cosine
        for row in (*a, *vectors):  # from the right
            row[p], row[q] = cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]
        a[p], a[q] = (  # and from the left
            [cosine * x - sine * y for x, y in zip(a[p], a[q], strict=True)],
            [sine * x + cosine * y for x, y in zip(a[p], a[q], strict=True)],
        )
    columns = sorted(zip((a[i][i] for i in range(3)), zip(*vectors, strict=True)), reverse=True)
    # Grey images have one direction only; rounding may leave the other variances a hair below 0.
    values = np.array([max(value, 0.0) for value, _ in columns])
    signs = [sign * math.copysign(1, v[2]) for sign, (_, v) in zip((-1, 1, 1), columns)]
    signed = [[sign * x for x in vector] for sign, (_, vector) in zip(signs, columns)]
    return values, np.array(signed).T


def area_weights(old: int, new: int) -> NDArray[np.float64]:
    """[new, old]: the share of each old cell in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    upper = np.minimum(edges[1:, None], cells + 1)
    lower = np.maximum(edges[:-1, None], cells)
    return np.clip(upper - lower, 0.0, None) * (new / old)
