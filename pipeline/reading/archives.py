"""Bytes of files, and of images inside archives; nothing is ever unpacked."""

import os
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
