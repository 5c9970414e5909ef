"""ImageNet's development kits (ILSVRC2012_devkit_t12, devkit-1.0 of 2010): a folder or .tar.gz.

ILSVRC2010_test_ground_truth.txt comes apart, and is read where someone has put it into the folder.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.sockets import fit_the_fork_server

_TRUTH = re.compile(r"^(ILSVRC20\d\d)_(validation|test)_ground_truth\.txt$")
_IN_NAMES = {"validation": "val", "test": "test"}
_CLASSES = "meta.mat"
_LARGEST = 1 << 26
"""Bytes that a file of the kit may unpack to; ImageNet's have less than one million."""


def is_devkit(path: Path) -> bool:
    """Whether `path` is one, rather than a label file."""
    return path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar"))


def labels(path: Path) -> list[tuple[str, str]]:
    """(name without extension, synset) of each validation or test image, in their order."""
    year, truths, synsets = _kit(path)
    try:
        synset_of = dict(
            zip(_column(synsets, f"{year}_ID", int, float), _column(synsets, "WNID", str))
        )
        return [
            (f"{year}_{_IN_NAMES[split]}_{place:08d}", synset_of[int(word)])
            for split, truth in truths.items()
            for place, word in enumerate(truth.split(), 1)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise _not_understood(path, error) from error


def words(path: Path) -> dict[str, str]:
    """Names for people by synset, where the kit has them."""
    _, _, synsets = _kit(path)
    if "words" not in (synsets.dtype.names or ()):
        return {}
    try:
        return dict(zip(_column(synsets, "WNID", str), _column(synsets, "words", str)))
    except (ValueError, TypeError) as error:
        raise _not_understood(path, error) from error


def _synsets(content: bytes) -> NDArray:
    """The table in meta.mat; to be read apart, as a damaged one may kill the process."""
    from scipy.io import loadmat  # noqa: PLC0415 - half of what importing a command's files took

    return np.asarray(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])


def _column(synsets: NDArray, name: str, *kinds: type) -> list[Any]:
    """A column of the table of synsets; TypeError or ValueError where it holds anything else."""
    values = np.atleast_1d(synsets)[name].tolist() if synsets.dtype.names else []
    if not values or not all(isinstance(value, kinds) for value in values):
        raise TypeError(f"{name} is no list of {kinds[0].__name__}")
    return values


def _kit(path: Path) -> tuple[str, dict[str, bytes], Any]:
    """The kit's challenge (ILSVRC2012), its lists of numbers, and its table of synsets."""
    found = dict(_files(path))
    truths = {match[2]: match for match in map(_TRUTH.match, found) if match}
    missing = [_CLASSES] * (_CLASSES not in found)
    missing += ["..._validation_ground_truth.txt"] * ("validation" not in truths)
    if missing:
        raise DatasetError(
            f"{path}: expected ImageNet's development kit; it lacks {', '.join(missing)}"
        )
    try:
        fit_the_fork_server()
        with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
            synsets = pool.submit(_synsets, found[_CLASSES]).result()
    except Exception as error:  # scipy raises many kinds for a file that is damaged
        raise _not_understood(path, error) from error
    lists = {split: found[match[0]] for split, match in truths.items()}
    return truths["validation"][1], lists, synsets


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the kit that matter, by name."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.name == _CLASSES or _TRUTH.match(file.name):
                yield file.name, file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                name = Path(entry.name).name
                if entry.isfile() and (name == _CLASSES or _TRUTH.match(name)):
                    yield name, _content(archive, entry)
    except Exception as error:  # tarfile and what unpacks raise many kinds for damaged files
        raise DatasetError(f"{path}: expected ImageNet's development kit ({error!r})") from error


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    content = file.read(_LARGEST + 1) if file else b""
    if len(content) > _LARGEST:
        raise ValueError(f"{entry.name} is larger than {_LARGEST} bytes")
    return content


def _not_understood(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: its {_CLASSES} and list of numbers do not say which synset each image is "
        f"({error!r}); expected those of ImageNet's development kit"
    )
