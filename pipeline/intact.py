"""Whether a file is still the image that was prepared; looked at before a decoder sees it.

DALI's decoder threads can crash on a file that turns out to be no image, or a smaller one. A file's
length and the size in its header are compared with the list's. Bits that flip inside the image are
not noticed.
"""

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import Archives
from pipeline.dataset import ImageList
from pipeline.decode import decode, look

_HEAD = 4096
"""Bytes in which most headers end."""

_NO_SIZE = {0xC4, 0xC8, 0xCC}
"""JPEG markers among those of frames, C0 to CF, that begin no frame."""

_DECODER = threading.Lock()
"""Threads take turns with the decoder of whole files."""

ReadAt = Callable[[int, int], bytes]
"""Some bytes of a file from an offset on; fewer where it ends."""


class Checked(NamedTuple):
    """A file's content where it lies in an archive, and why it can't be used, if so."""

    content: NDArray[np.uint8] | None
    fault: str


def check(images: ImageList, index: int, archives: Archives) -> Checked:
    """Hold image `index` against the list; its content is read where it lies in an archive."""
    try:
        if images.spans is None:
            return Checked(None, _fault_of_file(images, index))
        content = archives.read(*images.archive(index))
    except (OSError, ValueError) as error:
        return Checked(None, _words(error))
    view = content.data
    fault = _fault(images, index, lambda offset, size: bytes(view[offset : offset + size]))
    return Checked(content, fault)


def _fault_of_file(images: ImageList, index: int) -> str:
    descriptor = os.open(images.path(index), os.O_RDONLY)
    try:
        length, expected = os.fstat(descriptor).st_size, images.length(index)
        if expected is not None and length != expected:
            return f"it has {length} bytes, and had {expected} when the lists were made"
        return _fault(images, index, lambda offset, size: os.pread(descriptor, size, offset))
    finally:
        os.close(descriptor)


def _fault(images: ImageList, index: int, read_at: ReadAt) -> str:
    """Why an image can't be used, by its header; empty if it can."""
    height, width = images.sizes[index].tolist()
    if _stored_size(read_at) == (height, width):
        return ""
    try:  # another kind of file, or one that is shown turned
        content = images.content(index)
        header = look(content)
        if not header.unlike and (header.height, header.width) == (height, width):
            return ""
        with _DECODER:
            found = decode(content).shape
    except (OSError, ValueError) as error:
        return _words(error)
    if found[:2] == (height, width):
        return ""
    return f"it is {found[1]}x{found[0]} pixels, and was {width}x{height} when the lists were made"


def _stored_size(read_at: ReadAt) -> tuple[int, int] | None:
    """Height and width that a JPEG file's header says; None where it is none."""
    head, offset = read_at(0, _HEAD), 2
    if head[:2] != b"\xff\xd8":
        return None
    while True:
        marker = head[offset : offset + 9]
        if len(marker) < 9:
            marker = read_at(offset, 9)
        if len(marker) < 9 or marker[0] != 0xFF:
            return None
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in _NO_SIZE:
            return int.from_bytes(marker[5:7], "big"), int.from_bytes(marker[7:9], "big")
        offset += 2 + int.from_bytes(marker[2:4], "big")


def _words(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
