"""ImageNet's development kits (ILSVRC2012_devkit_t12, devkit-1.0 of 2010): a folder or .tar.gz."""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from pipeline.dataset import DatasetError

_TRUTH = re.compile(r"^(ILSVRC20\d\d)_validation_ground_truth\.txt$")
_CLASSES = "meta.mat"


def is_devkit(path: Path) -> bool:
    """Whether `path` is one, rather than a label file."""
    return path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar"))


def validation_labels(path: Path) -> list[tuple[str, str]]:
    """(name without extension, synset) of each validation image, in their order."""
    year, truth, synsets = _kit(path)
    try:
        synset_of = dict(zip(synsets[f"{year}_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
        numbers = [int(word) for word in truth.split()]
        return [
            (f"{year}_val_{place:08d}", synset_of[number])
            for place, number in enumerate(numbers, 1)
        ]
    except (ValueError, KeyError, AttributeError) as error:
        raise _not_understood(path, error) from error


def words(path: Path) -> dict[str, str]:
    """Names for people by synset, where the kit has them."""
    _, _, synsets = _kit(path)
    if "words" not in (synsets.dtype.names or ()):
        return {}
    return dict(zip(synsets["WNID"].tolist(), synsets["words"].tolist(), strict=True))


def _kit(path: Path) -> tuple[str, bytes, Any]:
    """The kit's challenge (ILSVRC2012), its list of numbers, and its table of synsets."""
    found = dict(_files(path))
    truths = [name for name in found if _TRUTH.match(name)]
    missing = [_CLASSES] * (_CLASSES not in found)
    missing += ["..._validation_ground_truth.txt"] * (not truths)
    if missing:
        raise DatasetError(
            f"{path}: expected ImageNet's development kit; it lacks {', '.join(missing)}"
        )
    try:
        synsets = loadmat(io.BytesIO(found[_CLASSES]), squeeze_me=True)["synsets"]
    except Exception as error:  # scipy raises many kinds for a file that is damaged
        raise _not_understood(path, error) from error
    return truths[0].split("_")[0], found[truths[0]], synsets


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
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DatasetError(f"{path}: expected ImageNet's development kit ({error})") from error


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    return file.read() if file else b""


def _not_understood(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: its {_CLASSES} and list of numbers do not say which synset each image is "
        f"({error!r}); expected those of ImageNet's development kit"
    )
