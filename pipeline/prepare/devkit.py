"""ImageNet's development kit (ILSVRC2012_devkit_t12), a folder or a .tar.gz."""

import io
import tarfile
import zlib
from pathlib import Path

from scipy.io import loadmat

from pipeline.dataset import DatasetError

_TRUTH, _CLASSES = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def is_devkit(path: Path) -> bool:
    """Whether `path` is one, rather than a label file."""
    return path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar"))


def validation_labels(path: Path) -> list[tuple[str, str]]:
    """(name without extension, synset) of each validation image, in their order."""
    files = _files(path)
    try:
        synsets = loadmat(io.BytesIO(files[_CLASSES]), squeeze_me=True)["synsets"]
        synset_of = dict(
            zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        )
        numbers = [int(word) for word in files[_TRUTH].split()]
        return [
            (f"ILSVRC2012_val_{place:08d}", synset_of[number])
            for place, number in enumerate(numbers, 1)
        ]
    except Exception as error:  # scipy raises many kinds for a file that is damaged
        raise DatasetError(
            f"{path}: its {_CLASSES} and {_TRUTH} do not say which synset each image is "
            f"({error!r}); expected those of ILSVRC2012_devkit_t12"
        ) from error


def _files(path: Path) -> dict[str, bytes]:
    """The two files that hold the labels, by name."""
    if path.is_dir():
        found = {
            file.name: file.read_bytes() for name in (_TRUTH, _CLASSES) for file in path.rglob(name)
        }
    else:
        try:
            with tarfile.open(path) as archive:
                wanted = [
                    entry
                    for entry in archive
                    if Path(entry.name).name in (_TRUTH, _CLASSES) and entry.isfile()
                ]
                found = {Path(entry.name).name: _content(archive, entry) for entry in wanted}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: expected ImageNet's development kit ({error})") from error
    missing = sorted({_TRUTH, _CLASSES} - set(found))
    if missing:
        raise DatasetError(
            f"{path}: expected ImageNet's development kit; it lacks {', '.join(missing)}"
        )
    return found


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    return file.read() if file else b""
