"""Images and their labels: class folders, or a flat folder with a label file.

Either may be an archive.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import members, read
from pipeline.dataset import DatasetError
from pipeline.prepare import devkit

_SPLITS = {"train", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class Listing:
    """Files found below `root`, a folder or a tar archive, in sorted order.

    `names` are relative to it, and so is each file's place in `spans`, (offset, size), if it is an
    archive. `folders` are those at its top, empty ones included.
    """

    root: Path
    folders: list[str]
    names: list[str]
    spans: list[tuple[int, int]] | None = None

    def source(self, names: list[str], labels: list[int]) -> "Source":
        """These of the files, labelled."""
        if self.spans is None:
            return Source(self.root, names, labels)
        place = dict(zip(self.names, self.spans, strict=True))
        length = len(os.fsencode(self.root.name))
        spans = [(length, *place[name]) for name in names]
        return Source(
            self.root.parent, [f"{self.root.name}/{name}" for name in names], labels, spans
        )


@dataclass(frozen=True)
class Source:
    """Files to examine: `names` relative to `root`, and `labels`, indices of classes.

    Names are sorted within each class. `spans`, for files inside archives, as in dataset.ImageList.
    """

    root: Path
    names: list[str]
    labels: list[int]
    spans: list[tuple[int, int, int]] | None = None

    def content(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError or ValueError where it can't be read."""
        path = os.path.join(self.root, self.names[index])
        if self.spans is None:
            return read(path)
        length, offset, size = self.spans[index]
        return read(
            os.path.join(self.root, os.fsdecode(os.fsencode(self.names[index])[:length])),
            offset,
            size,
        )

    def inner_name(self, index: int) -> str:
        """The file's name without that of the archive it is in."""
        if self.spans is None:
            return self.names[index]
        return os.fsdecode(os.fsencode(self.names[index])[self.spans[index][0] + 1 :])

    def take(self, indices: "NDArray[np.int64] | range") -> "Source":
        """Some of the files."""
        return Source(
            self.root,
            [self.names[i] for i in indices],
            [self.labels[i] for i in indices],
            None if self.spans is None else [self.spans[i] for i in indices],
        )


def class_folders(root: Path) -> Listing:
    """Every file below the folders in `root`.

    `root` may be an archive of them, or of an archive for each class (ImageNet's training set).
    """
    if root.is_file():
        found = sorted(
            (name, (offset, size)) for name, offset, size in members(root) if "/" in name
        )
        folders = sorted({name.split("/")[0] for name, _ in found})
        names, spans = [name for name, _ in found], [span for _, span in found]
    else:
        folders, spans = _folders(root), None
        names = [name for folder in folders for name in sorted(_files_below(root, folder, set()))]
    if not folders:
        raise DatasetError(
            f"{root}: expected a folder of images for each class, found no folder at all (a flat "
            "folder of validation images takes its labels from --val-labels)"
        )
    return Listing(root, folders, names, spans)


def flat_folder(root: Path) -> Listing:
    """Every file in `root` itself; or in an archive, whatever folder it puts them into."""
    if root.is_file():
        found = sorted((name, (offset, size)) for name, offset, size in members(root))
        return Listing(root, [], [name for name, _ in found], [span for _, span in found])
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder or archive; expected one of images")
    names = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_file() and not entry.name.startswith(".")
    )
    return Listing(root, [], names)


def class_names(listing: Listing) -> list[str]:
    """The class folders, in the order that numbers them (sorted, as ImageNet's synsets are)."""
    root, classes = listing.root, listing.folders
    if len(classes) == 1:
        raise DatasetError(
            f"{root}: found one class folder only ({classes[0]}); a classifier needs two or more"
        )
    if set(classes) <= _SPLITS:
        raise DatasetError(
            f"{root}: found {_some(classes)}, which are no classes; expected a folder of class "
            "folders"
        )
    broken = [name for name in classes if name.splitlines() != [name]]
    if broken:
        raise DatasetError(
            f"{root}: class folder {broken[0]!r} has a line break in its name; rename it"
        )
    return classes


def label_by_folder(listing: Listing, classes: list[str]) -> Source:
    """Each file labelled by its class folder; a folder that is not one of `classes` is an error."""
    unknown = sorted(set(listing.folders) - set(classes))
    if unknown:
        raise DatasetError(
            f"{listing.root}: class folders {_some(unknown)} are not among the training classes"
        )
    index = {name: label for label, name in enumerate(classes)}
    # Sorting is stable: within a class, names keep their order.
    ordered = sorted(listing.names, key=lambda name: index[name.split("/")[0]])
    return listing.source(ordered, [index[name.split("/")[0]] for name in ordered])


def label_by_file(listing: Listing, label_file: Path, classes: list[str]) -> Source:
    """Each file labelled by a label file that must name each of them exactly once.

    Understood: Tiny ImageNet's val_annotations.txt (tabs), `name label` in two columns or as CSV,
    Kaggle's LOC_val_solution.csv, and ImageNet's development kit (its folder or .tar.gz). A label
    is a class name or an index into `classes`; a name may lack its extension.
    """
    if not listing.names:
        raise DatasetError(f"{listing.root}: expected images, found no file")
    files = {name: name.rpartition("/")[2] for name in listing.names}
    keys = set(files.values()) | {Path(file).stem for file in files.values()}
    if devkit.is_devkit(label_file):
        rows = devkit.validation_labels(label_file)
    else:
        rows = _without_heading(list(_label_rows(label_file)), keys, classes)
    label_of = _labels_by_name(label_file, rows, classes)
    unlabelled = [
        file for file in files.values() if file not in label_of and Path(file).stem not in label_of
    ]
    if unlabelled:
        raise DatasetError(
            f"{label_file}: no label for {len(unlabelled)} of {len(files)} files: "
            f"{_some(unlabelled)}"
        )
    absent = sorted(set(label_of) - keys)
    if absent:
        where = f"{len(absent)} files that are not in {listing.root}"
        raise DatasetError(f"{label_file}: labels {where}: {_some(absent)}")
    labels = [label_of.get(file, label_of.get(Path(file).stem, -1)) for file in files.values()]
    return listing.source(listing.names, labels)


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Split into training and validation, class by class.

    At least one image of each class goes to either side.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    labels = np.array(source.labels)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DatasetError(
                f"{source.root}: class folder of {source.names[members[0]]!r} holds a single file; "
                "expected two or more, to hold one out for validation"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return source.take(np.flatnonzero(~held)), source.take(np.flatnonzero(held))


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder; expected one that holds a folder of images for each class"
        )
    return sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _files_below(root: Path, folder: str, seen: set[str]) -> Iterator[str]:
    """Names relative to `root`; linked folders are followed, but into no folder twice."""
    real = os.path.realpath(root / folder)
    if real in seen:
        return
    seen.add(real)
    for entry in os.scandir(root / folder):
        if entry.name.startswith("."):
            continue
        name = f"{folder}/{entry.name}"
        # Unlike entry.is_dir(), no error for a link that leads nowhere or in a circle
        if os.path.isdir(entry.path):
            yield from _files_below(root, name, seen)
        else:
            yield name


def _label_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(name, what follows it) of each line; further columns (boxes) are passed over."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such label file")
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if "\t" in line:
            fields = line.split("\t")
        elif "," in line:
            fields = next(csv.reader([line]))
        else:
            fields = line.rsplit(None, 1)
        if len(fields) < 2 or not fields[1].strip():
            raise DatasetError(f"{path}:{number}: expected 'name label', found {line[:80]!r}")
        yield fields[0].strip(), fields[1].strip()


def _without_heading(
    rows: list[tuple[str, str]], keys: set[str], classes: list[str]
) -> list[tuple[str, str]]:
    """`rows` less a first one that names neither a file nor a class."""
    if not rows or rows[0][0] in keys:
        return rows
    text = rows[0][1]
    return rows if text in classes or text.split()[0] in classes or text.isdecimal() else rows[1:]


def _labels_by_name(path: Path, rows: list[tuple[str, str]], classes: list[str]) -> dict[str, int]:
    """Labels are all class names, or all indices: class names may be numbers themselves."""
    index = {name: label for label, name in enumerate(classes)}
    words = [(name, text if text in index else text.split()[0]) for name, text in rows]
    if not any(word in index for _, word in words):
        index = {str(label): label for label in range(len(classes))}
    labels: dict[str, int] = {}
    for name, word in words:
        if word not in index:
            raise DatasetError(
                f"{path}: {name} is labelled {word!r}; expected a training class "
                f"({_some(classes)}) on every line, or a number below {len(classes)} on every line"
            )
        if labels.setdefault(name, index[word]) != index[word]:
            raise DatasetError(
                f"{path}: {name} is labelled twice, as {labels[name]} and {index[word]}"
            )
    return labels


def _some(names: list[str]) -> str:
    """The first few of a long list, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
