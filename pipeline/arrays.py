"""Arrays in .npz files."""

import errno
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of a file that `np.savez` wrote, by name; ValueError for any other file.

    OSError where the disk is to blame.
    Such a file is not compressed. One that claims to unpack to more is a trap for the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        with np.load(path) as file:
            arrays = dict(file)
        others = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
        if others:
            raise ValueError(f"{others[0]} is no array")
        return arrays
    except Exception as error:  # numpy and zipfile raise many kinds for a file that is damaged
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise OSError(f"{path} can't be read now ({error.strerror})") from error
        raise ValueError(
            f"{path} can't be read as arrays ({error!r}); rerun alexnet prep, which writes it"
        ) from error
