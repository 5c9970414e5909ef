"""Boxes in images as regions to decode, and what to resize of them; nothing else is needed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Regions(NamedTuple):
    """Regions of n images in their own pixels, (top, left) and (bottom, right)."""

    # [n, 2] whole pixels to decode, a margin for the filter included
    decode_start: NDArray[np.int32]
    decode_end: NDArray[np.int32]  # [n, 2]
    start: NDArray[np.float32]  # [n, 2] what the box covers, relative to decode_start; not whole
    end: NDArray[np.float32]  # [n, 2] left and right are swapped where the box is mirrored


def are_cuts(boxes: NDArray[np.float64], size: int) -> bool:
    """Whether all boxes [n, 4] are of whole pixels, `size` square: there is nothing to resample."""
    return bool((boxes == np.rint(boxes)).all() and (boxes[:, 2:] - boxes[:, :2] == size).all())


def cuts(boxes: NDArray[np.float64]) -> Regions:
    """The regions of boxes of whole pixels, which are decoded as they are."""
    start, end = boxes[:, :2].astype(np.int32), boxes[:, 2:].astype(np.int32)
    return Regions(start, end, np.zeros(start.shape, np.float32), (end - start).astype(np.float32))


def resampled(
    boxes: NDArray[np.float64], sizes: NDArray[np.int32], mirrored: NDArray[np.bool_], size: int
) -> Regions:
    """The regions of boxes [n, 4] (top, left, bottom, right) that are resized to `size` pixels.

    Pixels that a triangle filter reaches beyond the box are decoded too, as far as there are any in
    images of `sizes` [n, 2].
    """
    start, end = boxes[:, :2], boxes[:, 2:]
    reach = 1 + np.maximum((end - start) / size, 1) / 2
    decode_start = np.maximum(np.floor(start - reach), 0).astype(np.int32)
    decode_end = np.minimum(np.ceil(end + reach), sizes).astype(np.int32)
    roi_start = (start - decode_start).astype(np.float32)
    roi_end = (end - decode_start).astype(np.float32)
    left, right = roi_start[:, 1].copy(), roi_end[:, 1].copy()
    roi_start[:, 1] = np.where(mirrored, right, left)
    roi_end[:, 1] = np.where(mirrored, left, right)
    return Regions(decode_start, decode_end, roi_start, roi_end)
