"""Where images and their labels come from: class folders, or a flat folder with a label file."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset import DatasetError

_SPLITS = {"train", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class Source:
    """Files to examine: `names` relative to `root`, sorted within each class; `labels` index into the classes."""

    root: Path
    names: list[str]
    labels: list[int]


def class_names(root: Path) -> list[str]:
    """The class folders in `root`, in the order that numbers them (sorted, as ImageNet's synsets are)."""
    classes = _folders(root)
    if len(classes) == 1:
        raise DatasetError(f"{root}: found one class folder only ({classes[0]}); a classifier needs two or more")
    if set(classes) <= _SPLITS:
        raise DatasetError(f"{root}: found {_some(classes)}, which are no classes; expected a folder of class folders")
    broken = [name for name in classes if name.splitlines() != [name]]
    if broken:
        raise DatasetError(f"{root}: class folder {broken[0]!r} has a line break in its name; rename it")
    return classes


def from_class_folders(root: Path, classes: list[str]) -> Source:
    """Every file below the class folders in `root`; a folder that is not one of `classes` is an error."""
    folders = _folders(root)
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise DatasetError(f"{root}: class folders {_some(unknown)} are not among the training classes")
    names, labels = [], []
    for folder in folders:
        found = sorted(_files_below(root, folder, set()))
        names += found
        labels += [classes.index(folder)] * len(found)
    return Source(root, names, labels)


def from_label_file(root: Path, label_file: Path, classes: list[str]) -> Source:
    """The files of a flat folder, labelled by a file that must name each of them exactly once.

    Understood: Tiny ImageNet's val_annotations.txt (tabs), `name label` in two columns or as CSV, and Kaggle's
    LOC_val_solution.csv. A label is a class name or an index into `classes`; a name may lack its extension.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; expected a folder of images")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and not entry.name.startswith("."))
    if not names:
        raise DatasetError(f"{root}: expected images, found no file")
    rows = list(_label_rows(label_file))
    keys = set(names) | {Path(name).stem for name in names}
    label_of = _labels_by_name(label_file, _without_heading(rows, keys, classes), classes)
    unlabelled = [name for name in names if name not in label_of and Path(name).stem not in label_of]
    if unlabelled:
        raise DatasetError(f"{label_file}: no label for {len(unlabelled)} of {len(names)} files: {_some(unlabelled)}")
    absent = sorted(set(label_of) - keys)
    if absent:
        raise DatasetError(f"{label_file}: labels {len(absent)} files that are not in {root}: {_some(absent)}")
    return Source(root, names, [label_of.get(name, label_of.get(Path(name).stem, -1)) for name in names])


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Split into training and validation, class by class: at least one of each class on either side."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    labels = np.array(source.labels)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DatasetError(f"{source.root}: class folder of {source.names[members[0]]!r} holds a single file; "
                               "two are needed to hold one out for validation")  # fmt: skip
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return _subset(source, np.flatnonzero(~held)), _subset(source, np.flatnonzero(held))


def _subset(source: Source, indices: np.ndarray) -> Source:
    return Source(source.root, [source.names[i] for i in indices], [source.labels[i] for i in indices])


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; expected one that holds a folder of images for each class")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DatasetError(f"{root}: expected a folder of images for each class, found no folder at all")
    return folders


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
        if entry.is_dir():
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


def _without_heading(rows: list[tuple[str, str]], keys: set[str], classes: list[str]) -> list[tuple[str, str]]:
    """`rows` less a first one that names neither a file nor a class."""
    if not rows or rows[0][0] in keys:
        return rows
    text = rows[0][1]
    return rows if text in classes or text.split()[0] in classes or text.isdecimal() else rows[1:]


def _labels_by_name(path: Path, rows: list[tuple[str, str]], classes: list[str]) -> dict[str, int]:
    """Labels are class names, all of them, or else indices, all of them: class names may be numbers themselves."""
    index = {name: label for label, name in enumerate(classes)}
    words = [(name, text if text in index else text.split()[0]) for name, text in rows]
    if not any(word in index for _, word in words):
        index = {str(label): label for label in range(len(classes))}
    labels: dict[str, int] = {}
    for name, word in words:
        if word not in index:
            raise DatasetError(
                f"{path}: {name} is labelled {word!r}; expected a training class ({_some(classes)}) on every line, "
                f"or a number below {len(classes)} on every line"
            )
        if labels.setdefault(name, index[word]) != index[word]:
            raise DatasetError(f"{path}: {name} is labelled twice, as {labels[name]} and {index[word]}")
    return labels


def _some(names: list[str]) -> str:
    """The first few of a long list, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
