"""Where a file's bytes lie in an archive, and how they are read from there."""

import os
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.prepare.hubs import parquet
from alexnet_dali.pipeline.reading.archives import read

_LARGEST = 1 << 29
"""Bytes that one file may unpack to; a larger one would be a trap for the memory."""


class ArchiveMember(NamedTuple):
    """A file inside `archive`, whose path is relative to the root of its tree.

    `compression` says what `offset` and `size` mean: "stored" and "deflate" count the archive's
    bytes; in a "parquet" file they are the row group and its row. `crc` is the zip's checksum.
    """

    archive: str
    offset: int
    size: int
    compression: str = "stored"
    crc: int | None = None

    def content(self, root: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """The file's bytes; OSError or ValueError where they can't be read or are damaged."""
        path = os.path.join(root, self.archive)
        if self.compression == "parquet":
            return np.frombuffer(parquet.image(path, self.offset, self.size), np.uint8)
        data = read(path, self.offset, self.size)
        if self.compression == "deflate":
            data = np.frombuffer(_inflate(data), np.uint8)
        if self.crc is not None and zlib.crc32(data.data) != self.crc:
            raise ValueError("damaged in its archive: the checksum differs")
        return data


def _inflate(data: NDArray[np.uint8]) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(data.tobytes(), _LARGEST)
    except zlib.error as error:
        raise ValueError(f"damaged in its archive ({error})") from None
    if not unpacker.eof:
        raise ValueError(f"cut short in its archive, or more than {_LARGEST} bytes unpacked")
    return content
