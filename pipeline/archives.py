"""Bytes of files, and of images inside archives; nothing is ever unpacked."""

import os
import resource
import stat
import threading

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
    """Reads ranges of bytes from archives, each opened when it is first asked for.

    They are not mapped into memory: an archive that is cut short would end the process. Threads may
    share it.
    """

    def __init__(self) -> None:
        self._open_files: dict[str, int] = {}
        self._lock = threading.Lock()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # ImageNet comes as a thousand archives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def read(self, path: str, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes [size] of the archive; ValueError, which names it, where it ends before."""
        data = os.pread(self._descriptor(path), size, offset)
        if len(data) < size:
            raise ValueError(
                f"{path} ends at byte {offset + len(data)}; the image needs {size} bytes from byte "
                f"{offset} on"
            )
        return np.frombuffer(data, np.uint8)

    def _descriptor(self, path: str) -> int:
        with self._lock:
            if path not in self._open_files:
                self._open_files[path] = os.open(path, os.O_RDONLY)
            return self._open_files[path]

    def __del__(self) -> None:
        for descriptor in self._open_files.values():
            os.close(descriptor)
