"""Pillow's view of a file: a second opinion, and what is stored of kinds that DALI lacks."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_dali.pipeline.decode import orientation, pillow_limits

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From orientations to what makes an image upright."""


def decode(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first picture of a file as RGB [height, width, 3], upright, without its transparency.

    Of 16 bits the upper eight. ValueError where it is damaged, or of numbers without a range.
    """
    try:
        with pillow_limits(), Image.open(io.BytesIO(data.tobytes())) as image:
            if image.format == "PNG":  # decoding alone does not test its checksums
                with Image.open(io.BytesIO(data.tobytes())) as again:
                    again.verify()
            image.info.pop("xmp", None)  # loading turns a TIFF file, by XMP, too
            image.load()  # a PNG file's EXIF may follow its pixels
            turn = _TURNS.get(orientation(image))
            upright = image if turn is None else image.transpose(turn)
            return np.asarray(_rgb(upright, image.format or ""))
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"damaged: {error}") from error


def _rgb(image: Image.Image, kind: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are numbers of 32 bits, without a range; save it with 8 bits")
    return image.convert("RGB")
