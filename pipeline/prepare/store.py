"""The store: images re-encoded with their shorter side at the size to which training resizes it.

A stored image is the resized image on training's own grid of pixels: its central square lies on
whole pixels. What is left over at the ends of its longer side is dropped. Crops of it are then cut
out, with nothing to resample.
"""

import hashlib
import io
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_dali.pipeline.system.files import writing_to

SHARD_BYTES = 256 << 20
"""A shard is closed when it has grown to this size."""

_BUFFER = 1 << 20
_LONGEST_NAME = 255  # bytes, in Linux's file systems
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


def stored_name(name: str, marked: bool = False) -> str:
    """`class/picture.png` becomes `class/picture_png.jpg`.

    WebDataset splits names at the first dot, so one is left. A name that is `marked`, as another
    would be stored as the same, or is too long for a file system, gets a checksum: IMG_1.JPG beside
    IMG_1.jpg becomes `IMG_1-0e4ef7a4.jpg`.
    """
    *folders, file = name.split("/")
    stem = _JPEG_SUFFIX.sub("", file).replace(".", "_")
    if marked:
        stem += _checksum(name)
    return "/".join([*map(_shortened, folders), _shortened(stem, ".jpg")])


def _shortened(part: str, suffix: str = "") -> str:
    if len(os.fsencode(part + suffix)) <= _LONGEST_NAME:
        return part + suffix
    end = _checksum(part) + suffix
    while len(os.fsencode(part + end)) > _LONGEST_NAME:
        part = part[:-1]
    return part + end


def _checksum(name: str) -> str:
    return f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def write_file(folder: Path, name: str, image: bytes) -> None:
    """An image that is stored as `name` in a file of its own.

    Every process may write files: what comes after the journal's end is simply written again.
    """
    path = folder / name
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def tar_entry(name: str, label: int, image: bytes) -> tuple[bytes, int]:
    """What a shard holds of an image that is stored as `name`, `key.jpg`, and its label `key.cls`.

    And the image's offset.
    """
    header = _header(name, len(image))
    text = str(label).encode()
    about = _header(name.removesuffix("jpg") + "cls", len(text))
    return b"".join([header, _filled_up(image), about, _filled_up(text)]), len(header)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _filled_up(data: bytes, block: int = tarfile.BLOCKSIZE) -> bytes:
    return data + bytes(-len(data) % block)


def shard_name(part: str, number: int) -> str:
    """The file name of a shard of the list `part`."""
    return f"{part}-{number:06d}.tar"


class Shards:
    """WebDataset shards, tar files, in which entries follow each other as they are added."""

    def __init__(self, folder: Path, part: str, position: tuple[int, int] = (0, 0)) -> None:
        """Resume at `position`: the shard's number and its bytes; what lies beyond is removed."""
        self._folder, self._part = folder, part
        folder.mkdir(parents=True, exist_ok=True)
        number, size = position
        for old in sorted(folder.glob(f"{part}-*.tar"))[number + bool(size) :]:
            old.unlink()
        self._open(number, size)

    def add(self, entries: list[bytes]) -> NDArray[np.int64]:
        """Append what `tar_entry` made; [n, 2]: the shard of each, and where in it it begins."""
        places = []
        for entry in entries:
            if self._size >= SHARD_BYTES:
                self.close()
                self._open(self._number + 1, 0)
            places.append((self._number, self._size))
            self._file.write(entry)
            self._size += len(entry)
        return np.array(places, np.int64).reshape(-1, 2)

    def position(self) -> tuple[int, int]:
        """How far the shards have come; everything before is safe on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._number, self._size

    def close(self) -> None:
        """End the last shard, as tar files end."""
        end = bytes(2 * tarfile.BLOCKSIZE)
        self._file.write(end + bytes(-(self._size + len(end)) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _open(self, number: int, size: int) -> None:
        self._number, self._size = number, size
        path = self._folder / shard_name(self._part, number)
        # Open over many calls of add.
        self._file = open(path, "r+b" if size else "wb", _BUFFER)  # noqa: SIM115
        self._file.truncate(size)
        self._file.seek(size)
