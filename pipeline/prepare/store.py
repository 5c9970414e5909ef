"""The store: images re-encoded with their shorter side at the size to which training resizes it.

A stored image is the resized image on training's own grid of pixels: its central square lies on
whole pixels. What is left over at the ends of its longer side is dropped. Crops of it are then cut
out, with nothing to resample.
"""

import io
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.files import sync_file_system

SHARD_BYTES = 256 << 20
"""A shard is closed when it has grown to this size."""

_MAX_SIDE = 65_500  # of a JPEG file
_JPEG_SUFFIX = re.compile(r"\.jpe?g$", re.IGNORECASE)


@dataclass(frozen=True)
class StoreFormat:
    """How images are stored: as JPEG of `quality`, `resize` pixels on the shorter side.

    They go into files, or into tar shards.
    """

    resize: int
    quality: int
    shards: bool


def resize_on_the_grid(pixels: NDArray[np.uint8], resize: int) -> NDArray[np.uint8]:
    """Resize to [height, width, 3] with `resize` pixels on the shorter side.

    ValueError where the longer one would be more than a JPEG file can hold.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    scale = shorter / resize
    new_height, new_width = (
        resize + 2 * int((side - shorter) / 2 / scale) for side in (height, width)
    )
    if max(new_height, new_width) > _MAX_SIDE:
        raise ValueError(
            f"{width}x{height} pixels, which would be {new_width}x{new_height}; JPEG has "
            f"{_MAX_SIDE} at most"
        )
    # Rounding may leave -1e-14, which Pillow takes for no box.
    left, top = (max(width - new_width * scale, 0) / 2, max(height - new_height * scale, 0) / 2)
    box = (left, top, width - left, height - top)
    # Pillow: DALI takes twice the time for single images, and torch can't start between two pixels.
    resized = Image.fromarray(pixels).resize(
        (new_width, new_height), Image.Resampling.BILINEAR, box=box
    )
    return np.asarray(resized)


def encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG file with 4:2:0 chroma."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def stored_name(name: str) -> str:
    """`class/picture.png` becomes `class/picture_png.jpg`.

    WebDataset splits names at the first dot, so one is left.
    """
    folder, _, file = name.rpartition("/")
    return f"{folder}/" * bool(folder) + _JPEG_SUFFIX.sub("", file).replace(".", "_") + ".jpg"


Span = tuple[int, int, int]
"""See dataset.ImageList: bytes of the archive's name, offset, size."""


class Store(Protocol):
    """Where stored images go, one after the other."""

    def add(self, name: str, label: int, image: bytes) -> tuple[str, Span | None]:
        """Store one image; returns its name in the list, and its place in an archive."""
        ...

    def position(self) -> tuple[int, int]:
        """How far the store has come; everything before is safe on disk."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class LooseFiles:
    """One file for each image, in the same folders as the originals."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, label: int, image: bytes) -> tuple[str, Span | None]:
        """See Store."""
        path = self._folder / stored_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        return stored_name(name), None

    def position(self) -> tuple[int, int]:
        """See Store; what comes after it is simply written again."""
        sync_file_system(self._folder)
        return 0, 0

    def close(self) -> None:
        """See Store."""


class Shards:
    """WebDataset shards: tar files in which each `key.jpg` is followed by its label, `key.cls`."""

    def __init__(self, folder: Path, prefix: str, position: tuple[int, int] = (0, 0)) -> None:
        """Resume at `position`: the shard's number and its bytes; what lies beyond is removed."""
        self._folder, self._prefix = folder, prefix
        folder.mkdir(parents=True, exist_ok=True)
        self._number, size = position
        for old in sorted(folder.glob(f"{prefix}-*.tar"))[self._number + bool(size) :]:
            old.unlink()
        self._open(size)

    def add(self, name: str, label: int, image: bytes) -> tuple[str, Span | None]:
        """See Store."""
        if self._tar.offset >= SHARD_BYTES:
            self._close_shard()
            self._number += 1
            self._open(0)
        member = stored_name(name)
        self._append(member, image)
        offset = self._tar.offset - -(-len(image) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._append(member.removesuffix("jpg") + "cls", str(label).encode())
        shard = self._path().name
        return f"{shard}/{member}", (len(os.fsencode(shard)), offset, len(image))

    def position(self) -> tuple[int, int]:
        """See Store."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._number, self._tar.offset

    def close(self) -> None:
        """See Store."""
        self._close_shard()

    def _append(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def _path(self) -> Path:
        return self._folder / f"{self._prefix}-{self._number:06d}.tar"

    def _open(self, size: int) -> None:
        # Open over many calls of add.
        self._file = open(self._path(), "r+b" if size else "wb")  # noqa: SIM115
        self._file.truncate(size)
        self._file.seek(size)
        # Open over many calls of add.
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT
        )

    def _close_shard(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
