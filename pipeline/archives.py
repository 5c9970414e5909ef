"""Images inside tar archives: where each lies, so that it is read in place and nothing is ever unpacked."""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Member(NamedTuple):
    """A file inside a tar archive, and the bytes of the archive that it is made of."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Every file in the archive; those of an archive inside it are named by its stem (ImageNet's training set).

    ValueError where it is not a tar file, or a compressed one, which can't be read in place.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                if not entry.name.endswith(".tar"):
                    yield Member(entry.name.removeprefix("./"), entry.offset_data, entry.size)
                    continue
                folder = entry.name.removeprefix("./").removesuffix(".tar")
                with tarfile.open(fileobj=archive.extractfile(entry), mode="r:") as inner:
                    for file in inner:
                        if file.isfile():
                            name = f"{folder}/{file.name.removeprefix('./')}"
                            yield Member(name, entry.offset_data + file.offset_data, file.size)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: expected a tar archive that is whole and not compressed ({error})") from error


def read(path: str, offset: int = 0, size: int = -1) -> NDArray[np.uint8]:
    """`size` bytes of a file from `offset` on; all the rest by default. OSError or ValueError where it has none."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    data = np.fromfile(path, np.uint8, size, offset=offset)
    if not len(data):
        raise ValueError("the file is empty")
    return data


class Archives:
    """Reads ranges of bytes from archives, each mapped into memory when it is first asked for."""

    def __init__(self) -> None:
        self._maps: dict[str, NDArray[np.uint8]] = {}

    def read(self, path: str, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes [size] of the archive, without a copy; fewer where the archive ends before."""
        if path not in self._maps:
            self._maps[path] = np.memmap(path, np.uint8, mode="r")
        return self._maps[path][offset : offset + size]
