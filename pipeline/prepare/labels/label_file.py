"""Label files: which class each image of a flat folder is of.

Understood are lines of a name and a class or its number, as text or CSV, with other columns and a
heading or without, and ImageNet's development kits (a folder or .tar.gz). One column names every
image. Among the others, class names go before numbers. Where a file can be read in ways that give
different labels, that is an error: nothing is guessed.
"""

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_dali.pipeline.messages import DatasetError, one_line
from alexnet_dali.pipeline.prepare.labels import devkit
from alexnet_dali.pipeline.prepare.labels.classes import Classes, numbers
from alexnet_dali.pipeline.prepare.labels.files import Files, is_image_name
from alexnet_dali.pipeline.prepare.labels.headings import names_files
from alexnet_dali.pipeline.prepare.labels.label_column import (
    NoLabels,
    Reading,
    check_agreement,
    headed_as_labels,
    readings,
)
from alexnet_dali.pipeline.prepare.labels.named import Named, by_names
from alexnet_dali.pipeline.prepare.labels.table import Columns, tables
from alexnet_dali.pipeline.prepare.names import some
from alexnet_dali.pipeline.prepare.text import read_text

UNLABELLED = -1
"""In place of a label: the file is no image."""


class Labels(NamedTuple):
    """Each file's label, an index of classes or UNLABELLED; and remarks for the user."""

    indices: list[int]
    remarks: list[str]


def read_labels(
    path: Path,
    folder: Path,
    names: list[str],
    classes: list[str],
    is_image: Callable[[int], bool] | None = None,
) -> Labels:
    """The label of each of the files `names` in `folder`, by the label file at `path`.

    `is_image(i)` is whether file i, which has no label, is an image; None: by its name's end.
    DatasetError unless all images have one label each, in whichever way the file can be read.
    """
    known = Classes(classes)
    reasons = []
    for named in file_tables(path, folder, names, is_image, known):
        try:
            chosen = _choose(path, named, known, names)
        except NoLabels as error:
            reasons.append(error)
            continue
        labels = _by_file(path, chosen, known)
        remarks = _remarks(path, folder, chosen, labels, names, classes)
        return Labels([labels.get(i, UNLABELLED) for i in range(len(names))], remarks)
    raise reasons[0]


def file_tables(
    path: Path,
    folder: Path,
    names: list[str],
    is_image: Callable[[int], bool] | None = None,
    classes: Classes = Classes([]),
) -> Iterator[list[Named]]:
    """The ways to read a file as a table of which one column names all images of `folder`.

    Those of a list are as likely; lists that come later are less so. The arguments are those of
    `read_labels`. DatasetError where there is no way.
    """
    files, tried, fits = Files(folder, names), [], False
    needed = _Needed(names, is_image or (lambda index: is_image_name(names[index])))
    for together in _tables(path):
        named = [n for columns in together for n in by_names(columns, files, classes)]
        tried += named
        whole = [n for n in named if n.pairs and not needed.missing(n)]
        if whole:
            fits = True
            yield _best_named(whole)
    if not fits:
        raise _not_named(path, folder, names, tried, needed)


def class_column(
    path: Path, folder: Path, names: list[str], is_image: Callable[[int], bool]
) -> list[str]:
    """The classes that a label file gives to the files `names`: sorted, and numbers by their value.

    They are the column headed as a label, or the only one. DatasetError where there are several.
    """
    found: dict[tuple[str, ...], str] = {}
    for named in next(file_tables(path, folder, names, is_image)):
        columns = headed_as_labels(named) or named.others()
        if len(columns) != 1:
            raise DatasetError(
                f"{path}: expected one column of classes beside {named.title(named.column)}, found "
                f"{', '.join(map(named.title, columns)) or 'none'}; call one of them label"
            )
        texts = set(named.texts(columns[0]))
        classes = sorted(texts, key=int) if numbers(texts) is not None else sorted(texts)
        found.setdefault(tuple(classes), named.title(columns[0]))
    if len(found) > 1:
        shown = " or ".join(f"{title} ({some([*names])})" for names, title in found.items())
        raise DatasetError(f"{path}: the classes may be those of {shown}; keep one of the columns")
    return list(next(iter(found)))


class _Needed:
    """Which files need a label: the images."""

    def __init__(self, names: list[str], is_image: Callable[[int], bool]) -> None:
        self._count, self._is_image = len(names), is_image
        self._images: dict[int, bool] = {}

    def missing(self, named: Named) -> list[int]:
        """Images that have no row."""
        there = {index for index, _ in named.pairs}
        return [i for i in range(self._count) if i not in there and self._image(i)]

    def _image(self, index: int) -> bool:
        if index not in self._images:
            self._images[index] = self._is_image(index)
        return self._images[index]


def _tables(path: Path) -> Iterator[list[Columns]]:
    if devkit.is_devkit(path):
        rows = devkit.labels(path)
        yield [[("file", *(name for name, _ in rows)), ("WNID", *(synset for _, synset in rows))]]
        return
    try:
        yield from tables(read_text(path))
    except csv.Error as error:
        raise DatasetError(f"{path}: expected 'name label' on every line ({error})") from error


def _best_named(whole: list[Named]) -> list[Named]:
    """Columns whose names have suffixes go first; then those whose headings say that they name."""
    whole = [n for n in whole if n.has_suffixes()] or whole
    return [n for n in whole if n.heading and names_files(n.heading[n.column])] or whole


def _choose(path: Path, named: list[Named], classes: Classes, names: list[str]) -> Reading:
    """The one way to read the file; DatasetError where several differ, NoLabels where none is."""
    found: list[Reading] = []
    reasons = []
    for table in named:
        if table.several:
            raise _several(path, table)
        try:
            found += readings(path, table, classes)
        except NoLabels as error:
            reasons.append(error)
    if not found:
        raise reasons[0]
    first = _by_file(path, found[0], classes)
    for other in found[1:]:
        second = _by_file(path, other, classes)
        for index, label in first.items():
            if second.get(index, label) != label:
                raise DatasetError(
                    f"{path}: it can be read in two ways: {names[index]} is "
                    f"{classes.names[label]} by {_told(found[0], index)}, and "
                    f"{classes.names[second[index]]} by {_told(other, index)}; keep one column of "
                    "names and one of labels, called class_name (names of class folders) or "
                    "class_index (their places from 0)"
                )
    check_agreement(path, found[0])
    return found[0]


def _told(reading: Reading, index: int) -> str:
    """How a label was read, with its line."""
    row = next(row for i, row in reading.named.pairs if i == index)
    meaning = reading.meaning and f" ({reading.meaning})"
    return (
        f"{reading.named.title(reading.column)}{meaning} beside "
        f"{reading.named.title(reading.named.column)} in the line {reading.named.line(row)!r}"
    )


def _by_file(path: Path, reading: Reading, classes: Classes) -> dict[int, int]:
    """The label of each file; DatasetError where two lines give one file two."""
    labels: dict[int, int] = {}
    for (index, row), label in zip(reading.named.pairs, reading.labels, strict=True):
        known = labels.setdefault(index, label)
        if known != label:
            raise DatasetError(
                f"{path}: {reading.named.columns[reading.named.column][row]} is labelled twice, as "
                f"{classes.names[known]} and {classes.names[label]}, the latter in the line "
                f"{reading.named.line(row)!r}"
            )
    return labels


def _not_named(
    path: Path, folder: Path, names: list[str], named: list[Named], needed: _Needed
) -> DatasetError:
    """Why no column names all images."""
    best = max(named, key=lambda n: len(n.pairs), default=None)
    if best is None or not best.pairs:
        first = "" if devkit.is_devkit(path) else next(iter(read_text(path).split("\n")), "")
        own = (
            "; ImageNet's numbers need its whole development kit: give its folder, with this file "
            "beside its meta.mat"
        ) * first.strip().isdecimal()
        return DatasetError(
            f"{path}: expected 'name label' on every line, with the names of the images' files; "
            f"its first line is {first.strip()[:80]!r}{own}"
        )
    if best.several:
        return _several(path, best)
    missing = [names[index] for index in needed.missing(best)]
    also = f"; it labels {some(best.elsewhere)}, which are not there" if best.elsewhere else ""
    return DatasetError(
        f"{path}: no label for {len(missing)} of {len(names)} files in {folder}: "
        f"{some(missing)}{also}"
    )


def _several(path: Path, table: Named) -> DatasetError:
    name = table.columns[table.column][table.several[0]]
    return DatasetError(f"{path}: {name} could be several files; add its folder")


def _remarks(
    path: Path,
    folder: Path,
    chosen: Reading,
    labels: dict[int, int],
    names: list[str],
    classes: list[str],
) -> list[str]:
    named, index = chosen.named, min(labels)
    meaning = chosen.meaning and f", {chosen.meaning}"
    lines = [
        f"labels: {one_line(named.title(chosen.column))} of {one_line(path.name)}{meaning}; "
        f"{one_line(names[index])} is {one_line(classes[labels[index]])}"
    ]
    return [*lines, *left_out(path, folder, named, labels, names)]


def left_out(
    path: Path, folder: Path, named: Named, labelled: Collection[int], names: list[str]
) -> list[str]:
    """Remarks on lines about files that are not there, and on files that have no line."""
    lines = []
    if named.elsewhere:
        lines.append(
            f"{path}: skipped {len(named.elsewhere)} lines about files that are not in {folder}: "
            f"{some(named.elsewhere)}"
        )
    skipped = [name for i, name in enumerate(names) if i not in labelled]
    if skipped:
        lines.append(
            f"{folder}: skipped {len(skipped)} files that are no images and have no label: "
            f"{some(skipped)}"
        )
    return lines
