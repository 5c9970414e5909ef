"""Crops of the resized image as regions of the file's own pixels.

Nothing else needs to be decoded or resized.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Regions(NamedTuple):
    """Regions of n images in their own pixels, (top, left) and (bottom, right)."""

    # [n, 2] whole pixels to decode, a margin for the filter included
    decode_start: NDArray[np.int32]
    decode_end: NDArray[np.int32]  # [n, 2]
    start: NDArray[np.float32]  # [n, 2] what the crop covers, relative to decode_start; not whole
    end: NDArray[np.float32]  # [n, 2] left and right are swapped where the crop is mirrored


def on_the_grid(sizes: NDArray[np.int32], resize: int) -> bool:
    """Whether images of `sizes` [n, 2] are stored resized, with squares that start on whole pixels.

    Their crops need no resampling: see `pipeline.prepare.store`.
    """
    spare = sizes - resize
    return bool((spare.min(axis=1) == 0).all() and (spare % 2 == 0).all())


def source_regions(
    sizes: NDArray[np.int32],
    corners: NDArray[np.integer],
    mirrored: NDArray[np.bool_],
    resize: int,
    crop: int,
    resample: bool = True,
) -> Regions:
    """Where crops lie in images of `sizes`.

    A crop is `crop` pixels square, at `corners` of the central `resize` x `resize` square. Resizing
    the shorter side to `resize` scales both axes by the same factor, which need not give a whole
    number of pixels on the longer side (paper, section 2). Regions in source pixels need no such
    rounding. Pixels that a triangle filter reaches beyond the crop are decoded too, unless there is
    nothing to `resample`.
    """
    boxes = squares(sizes, corners, resize, crop)
    reach = 1 + sizes.min(axis=1, keepdims=True) / resize / 2 if resample else 0
    return _regions(boxes[:, :2], boxes[:, 2:], reach, sizes, mirrored)


def squares(
    sizes: NDArray[np.int32], corners: NDArray, resize: int, crop: int
) -> NDArray[np.float64]:
    """Boxes [n, 4] of `crop` pixels square at `corners` of the central `resize` x `resize` square.

    A box is top, left, bottom and right, in the pixels of images of `sizes`.
    """
    shorter = sizes.min(axis=1, keepdims=True)
    scale = shorter / resize
    start = (sizes - shorter) / 2 + corners * scale
    return np.concatenate([start, start + crop * scale], axis=1)


def box_regions(
    sizes: NDArray[np.int32], boxes: NDArray[np.float64], mirrored: NDArray[np.bool_], crop: int
) -> Regions:
    """Where `boxes` [n, 4] (top, left, bottom, right) lie, which are resized to `crop` pixels."""
    start, end = boxes[:, :2], boxes[:, 2:]
    reach = 1 + np.maximum((end - start) / crop, 1) / 2
    return _regions(start, end, reach, sizes, mirrored)


def _regions(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    reach: NDArray[np.float64] | int,
    sizes: NDArray[np.int32],
    mirrored: NDArray[np.bool_],
) -> Regions:
    """Regions that decode `reach` pixels more on each side, as far as there are any."""
    decode_start = np.maximum(np.floor(start - reach), 0).astype(np.int32)
    decode_end = np.minimum(np.ceil(end + reach), sizes).astype(np.int32)
    start, end = start - decode_start, end - decode_start
    left, right = start[:, 1].copy(), end[:, 1].copy()
    start[:, 1] = np.where(mirrored, right, left)
    end[:, 1] = np.where(mirrored, left, right)
    return Regions(decode_start, decode_end, start.astype(np.float32), end.astype(np.float32))
