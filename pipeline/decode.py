"""Decode files whole, with DALI's CPU decoder, which training uses on a CPU; never on a GPU."""

import io
import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline import graph
from pipeline.faults import MachineError, gist, machine_error

MAX_PIXELS = 178_956_970
"""Larger images (half a gigabyte decoded) are rejected by their header, before they can fill the
memory.
"""

MOST_TOGETHER = 64
"""Files that are decoded in one batch at most."""

Image.MAX_IMAGE_PIXELS = None  # the limit above goes for both decoders
_ORIENTATION = 274  # EXIF
_VERDICT = re.compile(r"Failed to decode sample|nvImageCodec failure: '#[34]'|Invalid sample_type")
"""What DALI says of an image: damaged, or of a kind that it does not know (nvImageCodec's statuses
3 and 4).
"""


class Undecodable(ValueError):
    """DALI's decoder says that the content is no image that it can decode, or damaged."""


class Header(NamedTuple):
    """What a file's header says: format and mode by Pillow's names, and EXIF orientation.

    Orientation 1 is upright.
    """

    format: str
    mode: str
    orientation: int
    num_pixels: int


def look(data: NDArray[np.uint8]) -> Header:
    """Read the header alone; ValueError where it is no image, or one too large to decode."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{width}x{height} pixels; {MAX_PIXELS} in all is the most that is taken"
                )
            # A JPEG file with more pictures behind it
            kind = "JPEG" if image.format == "MPO" else image.format or ""
            return Header(kind, image.mode, _orientation(image), width * height)
    except UnidentifiedImageError:
        raise ValueError("not an image, or cut short in its header") from None


def decode(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One file's content as RGB [height, width, 3], upright.

    ValueError where it is no image that DALI decodes, MachineError where memory or the decoder
    itself fails.
    """
    if look(data).format == "GIF":
        raise ValueError("a GIF file, which DALI does not decode; --resize would store it as JPEG")
    return decode_together([data])[0]


def decode_together(contents: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """`decode` for up to MOST_TOGETHER files, which is cheaper than one by one.

    Their headers must be sound. Undecodable does not say which of them it means.
    """
    pipeline = _pipeline()
    try:
        pipeline.feed_input(graph.FILES, list(contents))
        (images,) = pipeline.run()
        return [np.asarray(images[index]) for index in range(len(contents))]
    except (RuntimeError, MemoryError) as error:
        _pipeline.cache_clear()  # a pipeline that has failed once does not run again
        if _VERDICT.search(str(error)):
            raise Undecodable(gist(error)) from error
        raise machine_error(error) or MachineError(
            f"DALI's decoder failed ({gist(error)})"
        ) from error


@lru_cache(maxsize=1)
def _pipeline() -> graph.Pipeline:
    return graph.build_decoder(MOST_TOGETHER)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, struct.error):  # what Pillow makes of damaged EXIF
        return 1
