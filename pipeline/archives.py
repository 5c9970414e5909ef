"""Bytes of files, and of images inside archives; nothing is ever unpacked."""

import mmap
import os
import resource
import stat

import numpy as np
from numpy.typing import NDArray


def read(path: str, offset: int = 0, size: int = -1) -> NDArray[np.uint8]:
    """`size` bytes of a file from `offset` on; by default, all the rest.

    OSError or ValueError where there are none.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    rest = max(0, about.st_size - offset)  # an archive may claim any size
    data = np.empty(rest if size < 0 else min(size, rest), np.uint8)
    with open(path, "rb") as file:
        file.seek(offset)
        # numpy's own way of reading takes errors of the disk for the end of the file.
        count = file.readinto(data.data)
    if not count:
        raise ValueError("the file is empty")
    return data[:count]


class Archives:
    """Reads ranges of bytes from archives, each mapped into memory when it is first asked for."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # ImageNet comes as a thousand archives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def read_ahead(self, path: str, offset: int, size: int) -> None:
        """Have the system fetch the bytes in the background; `read` would wait for them."""
        archive = self._map(path)
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        size = min(offset + size, len(archive)) - start
        if size > 0:
            archive.madvise(mmap.MADV_WILLNEED, start, size)

    def read(self, path: str, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes [size] of the archive, without a copy; fewer where the archive ends before."""
        return np.frombuffer(self._map(path), np.uint8)[offset : offset + size]

    def _map(self, path: str) -> mmap.mmap:
        if path not in self._maps:
            if not os.path.getsize(path):
                raise ValueError(f"{path}: the archive is empty")
            with open(path, "rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[path]
