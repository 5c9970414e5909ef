"""The prepared folder: what `tools/prep_imagenet.py` writes and training reads.

train.txt, val.txt   `relative/path label`, a line an image; DALI's and Caffe's readers take them
too sizes.npz            `train`, `val`: [n, 2] int32, height and width as decoded (upright); for
images inside archives, `train_spans`, `val_spans`: see ImageList classes.txt          class names,
a line a class; line k is label k stats.npz            see PixelStats rejected.txt         path,
tab, reason: files that could not be used mended.txt           path, tab, what was wrong: files that
are stored as what they should have been dataset.yaml         roots (relative ones are in here),
counts, fingerprint, and how the folder was made
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.archives import read
from pipeline.stats import PixelStats

FORMAT = 1
_FINGERPRINTED = ("train.txt", "val.txt", "sizes.npz", "classes.txt", "stats.npz")


class DatasetError(ValueError):
    """A prepared folder, a source folder or an image that can't be used, and what to do about
    it.
    """


@dataclass(frozen=True)
class ImageList:
    """A file list held as one blob of bytes: a million paths cost what their characters cost.

    `text` is the list file; path i is `text[starts[i]:ends[i]]`, relative to `root`. `labels` [n]
    int64; `sizes` [n, 2] int32 height and width. Images inside archives have `spans` [n, 3] int64:
    how many bytes of the path name the archive, and offset and size of the image in it.
    """

    root: str
    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int32]
    spans: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The file of image `index`, relative to the root; inside an archive, the archive's name
        goes before.
        """
        return os.fsdecode(self.text[self.starts[index] : self.ends[index]].tobytes())

    def path(self, index: int) -> str:
        """`name` with the root before it."""
        return os.path.join(self.root, self.name(index))

    def archive(self, index: int) -> tuple[str, int, int]:
        """The archive that holds image `index`, and the image's offset and size in it."""
        assert self.spans is not None
        length, offset, size = self.spans[index].tolist()
        name = self.text[self.starts[index] : self.starts[index] + length].tobytes()
        return os.path.join(self.root, os.fsdecode(name)), offset, size

    def take(self, indices: NDArray[np.int64]) -> "ImageList":
        """Some of the images, in the order given."""
        spans = None if self.spans is None else self.spans[indices]
        places = (self.starts[indices], self.ends[indices])
        return ImageList(
            self.root, self.text, *places, self.labels[indices], self.sizes[indices], spans
        )

    def content(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError or ValueError where it can't be read."""
        return read(self.path(index)) if self.spans is None else read(*self.archive(index))


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, opened and checked against its fingerprint."""

    folder: Path
    train: ImageList
    val: ImageList
    classes: list[str]
    stats: PixelStats
    fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open `folder`; DatasetError where it is missing, half-written, changed, or of another
        format.
        """
        about = _read_about(folder)
        missing = [name for name in _FINGERPRINTED if not (folder / name).is_file()]
        if missing:
            raise DatasetError(
                f"{folder}: {', '.join(missing)} missing; prepare it again with "
                "tools/prep_imagenet.py"
            )
        if fingerprint(folder) != about["fingerprint"]:
            raise DatasetError(
                f"{folder}: its files are not those that dataset.yaml was written for (changed or "
                "half-copied); prepare it again with tools/prep_imagenet.py"
            )
        with np.load(folder / "sizes.npz") as sizes:
            train, val = (
                read_list(
                    folder / f"{part}.txt",
                    str(folder / about[f"{part}_root"]),
                    sizes[part],
                    sizes.get(f"{part}_spans"),
                )
                for part in ("train", "val")
            )
        classes = os.fsdecode((folder / "classes.txt").read_bytes()).split("\n")[:-1]
        return cls(
            folder, train, val, classes, PixelStats.load(folder / "stats.npz"), about["fingerprint"]
        )


def fingerprint(folder: Path) -> str:
    """SHA-256 over the lists, sizes, classes and statistics: equal for the same images prepared the
    same way.
    """
    digest = hashlib.sha256()
    for name in _FINGERPRINTED:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def read_list(
    path: Path, root: str, sizes: NDArray[np.int32], spans: NDArray[np.int64] | None = None
) -> ImageList:
    """Parse a `relative/path label` list without making a Python object a line; a path may hold
    spaces.
    """
    text = np.fromfile(path, np.uint8)
    line_ends = np.flatnonzero(text == ord("\n"))
    if len(line_ends) != len(sizes) or len(line_ends) == 0 or line_ends[-1] != len(text) - 1:
        raise DatasetError(
            f"{path}: expected {len(sizes)} lines 'relative/path label', found {len(line_ends)}"
        )
    starts = np.concatenate([[0], line_ends[:-1] + 1])
    spaces = np.flatnonzero(text == ord(" "))
    last_space = np.searchsorted(spaces, line_ends) - 1
    ends = spaces[last_space] if len(spaces) else np.zeros_like(starts)
    if (last_space < 0).any() or (ends <= starts).any():
        line = int(np.argmax((last_space < 0) | (ends <= starts))) + 1
        raise DatasetError(
            f"{path}:{line}: expected 'relative/path label'; rebuild it with tools/prep_imagenet.py"
        )
    return ImageList(
        root, text, starts, ends, _numbers(path, text, ends + 1, line_ends), sizes, spans
    )


def write_list(path: Path, names: Sequence[str], labels: Sequence[int]) -> None:
    """Write a `relative/path label` list."""
    with open(path, "wb") as file:
        file.writelines(
            os.fsencode(f"{name} {label}\n") for name, label in zip(names, labels, strict=True)
        )


class Listed(NamedTuple):
    """The images of one part, in order; see ImageList."""

    names: list[str]
    labels: list[int]
    sizes: list[tuple[int, int]]
    spans: list[tuple[int, int, int]]  # empty for loose files


@dataclass(frozen=True)
class PreparedFiles:
    """Everything that a prepared folder holds, before it is one; `rejected` and `mended` are (path,
    why).
    """

    train: Listed
    val: Listed
    classes: list[str]
    stats: PixelStats
    rejected: list[tuple[str, str]]
    mended: list[tuple[str, str]]
    about: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write every file of the format into `folder`, dataset.yaml last."""
        arrays: dict[str, Any] = {}
        for part, listed in (("train", self.train), ("val", self.val)):
            write_list(folder / f"{part}.txt", listed.names, listed.labels)
            arrays[part] = np.array(listed.sizes, np.int32)
            if listed.spans:
                arrays[f"{part}_spans"] = np.array(listed.spans, np.int64)
        np.savez(folder / "sizes.npz", **arrays)
        _write_lines(folder / "classes.txt", self.classes)
        for name, files in (("rejected.txt", self.rejected), ("mended.txt", self.mended)):
            _write_lines(
                folder / name, [f"{one_line(path)}\t{one_line(why)}" for path, why in files]
            )
        with open(folder / "stats.npz", "wb") as file:
            self.stats.save(file)
        about = {"format": FORMAT, "fingerprint": fingerprint(folder), **self.about}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


def one_line(text: str) -> str:
    """`text` with line breaks and tabs spelt out, so that it can't break a table of lines."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes(os.fsencode("".join(line + "\n" for line in lines)))


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.yaml"
    if not path.is_file():
        raise DatasetError(
            f"{folder}: no dataset.yaml, so it is not a prepared folder (or only half of one); "
            f"make one with: python -m tools.prep_imagenet --train DIR --val DIR --out {folder}"
        )
    try:
        about = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        about = None
    expected = ("format", "fingerprint", "train_root", "val_root")
    if (
        not isinstance(about, dict)
        or about.get("format") != FORMAT
        or not about.keys() >= set(expected)
    ):
        raise DatasetError(
            f"{path}: expected format {FORMAT} with {', '.join(expected)}; "
            "prepare the folder again with tools/prep_imagenet.py"
        )
    return about


def _numbers(
    path: Path, text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The decimal numbers at text[starts[i]:ends[i]], all at once."""
    lengths = ends - starts
    values = np.zeros(len(starts), np.int64)
    wrong = (lengths < 1) | (lengths > 9)
    for place in range(int(lengths.clip(0, 9).max())):
        inside = place < lengths
        digits = text[np.minimum(starts + place, len(text) - 1)].astype(np.int64) - ord("0")
        wrong |= inside & ((digits < 0) | (digits > 9))
        values = np.where(inside, values * 10 + digits, values)
    if wrong.any():
        raise DatasetError(
            f"{path}:{int(np.argmax(wrong)) + 1}: the last word is not a label; expected a number"
        )
    return values
