"""Targets that are not classes: several classes of each image, or numbers, from a label file."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.messages import DatasetError, one_line
from alexnet_dali.pipeline.prepare.labels.label_file import file_tables, left_out
from alexnet_dali.pipeline.prepare.labels.named import Named
from alexnet_dali.pipeline.prepare.names import some

_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_BETWEEN_CLASSES = "|;,"


class Targets(NamedTuple):
    """`values` [n, names] of the files `indices` [n], which have a line; remarks for the user.

    `names` are those of classes or numbers, and `values` bool or float32.
    """

    names: list[str]
    indices: NDArray[np.int64]
    values: NDArray[np.bool_ | np.float32]
    remarks: list[str]


def read_targets(
    kind: str,
    path: Path,
    folder: Path,
    files: list[str],
    is_image: Callable[[int], bool],
    names: Sequence[str] | None = None,
) -> Targets:
    """The targets of the `files` in `folder` by the label file at `path`.

    `kind` is "multilabel" (a column of 0 and 1 for each class, or one column of class names) or
    "numbers" (every other column). `names` are those of the training targets, which others follow.
    DatasetError unless all images have targets, in one way to read the file.
    """
    read = _numbers if kind == "numbers" else _several_classes
    reasons = []
    for tables in file_tables(path, folder, files, is_image):
        found: list[Targets] = []
        for named in tables:
            try:
                found.append(_targets(path, folder, files, named, *read(path, named, names)))
            except DatasetError as error:
                reasons.append(error)
        if found:
            return _the_one(path, found)
    raise reasons[0]


def _the_one(path: Path, found: list[Targets]) -> Targets:
    """DatasetError where ways to read the file differ."""
    first, *others = found
    for other in others:
        if other.names != first.names or not _equal(first, other):
            raise DatasetError(
                f"{path}: it can be read in two ways: {first.remarks[0]}, or {other.remarks[0]}; "
                "write it as CSV with a heading"
            )
    return first


def _equal(one: Targets, other: Targets) -> bool:
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.values, other.values)


def _numbers(
    path: Path, named: Named, names: Sequence[str] | None
) -> tuple[list[str], NDArray[np.float32], list[int]]:
    """Names, [pairs, names], and the columns that were read: all that hold numbers.

    DatasetError where a column holds numbers in some lines, but not in all.
    """
    columns, values = [], []
    for column in named.others():
        numbers = [_number(text) for text in named.texts(column)]
        if all(number is None for number in numbers) or _counts_lines(named, column, numbers):
            continue
        if None in numbers:
            row = named.pairs[numbers.index(None)][1]
            raise DatasetError(
                f"{path}: {named.title(column)} holds {named.columns[column][row]!r} in the line "
                f"{named.line(row)!r}; expected a number on every line"
            )
        columns.append(column)
        values.append(numbers)
    if not columns:
        raise DatasetError(
            f"{path}: expected a column of numbers beside {named.title(named.column)}; a line of "
            f"it is {named.line(0)!r}"
        )
    table = np.array(values, np.float32).T
    titles = [named.heading[c] or f"number {c}" for c in columns] if named.heading else []
    return _as_in_training(path, titles, names, table, columns)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _counts_lines(named: Named, column: int, numbers: list[float | None]) -> bool:
    """Whether it is the index that pandas writes: 0, 1, 2, ... without a heading."""
    return bool(named.heading) and not named.heading[column] and numbers == [*range(len(numbers))]


def _as_in_training(
    path: Path,
    titles: list[str],
    names: Sequence[str] | None,
    table: NDArray[np.float32],
    columns: list[int],
) -> tuple[list[str], NDArray[np.float32], list[int]]:
    """The columns in the order of the training file's."""
    if names is None:
        return titles or [f"number {n + 1}" for n in range(len(columns))], table, columns
    if set(titles or names) != set(names) or len(columns) != len(names):
        raise DatasetError(
            f"{path}: found the numbers {some(titles) or len(columns)}; expected those of the "
            f"training images: {some(list(names))}"
        )
    order = [titles.index(name) for name in names] if titles else list(range(len(names)))
    return list(names), table[:, order], [columns[place] for place in order]


def _several_classes(
    path: Path, named: Named, names: Sequence[str] | None
) -> tuple[list[str], NDArray[np.bool_], list[int]]:
    """Names, [pairs, names] and the columns that were read."""
    flags = [c for c in named.others() if named.heading and _are_flags(named.texts(c))]
    if flags:
        found = [named.heading[c] for c in flags]
        table = np.array([[_FLAGS[t.lower()] for t in named.texts(c)] for c in flags]).T
        if names is None:
            return found, table, flags
        _check_known(path, found, names)
        known = np.zeros((len(table), len(names)), bool)
        known[:, [names.index(name) for name in found]] = table
        return list(names), known, flags
    others = named.others()
    if len(others) != 1:
        raise DatasetError(
            f"{path}: expected columns of 0 and 1 with class names as headings, or one column of "
            f"class names; found {', '.join(map(named.title, others)) or 'no other column'}"
        )
    words = _words(named.texts(others[0]))
    found = sorted(set().union(*words))
    if names is not None:
        _check_known(path, found, names)
        found = list(names)
    place = {name: index for index, name in enumerate(found)}
    table = np.zeros((len(words), len(found)), bool)
    for row, classes in enumerate(words):
        table[row, [place[name] for name in classes]] = True
    return found, table, others


def _are_flags(texts: list[str]) -> bool:
    return all(text.lower() in _FLAGS for text in texts)


def _words(texts: list[str]) -> list[set[str]]:
    """The classes of each field: cat|dog, cat;dog, "cat,dog", ['cat', 'dog'] or cat dog."""
    bare = [text.strip("[](){} ") for text in texts]
    mark = next((mark for mark in _BETWEEN_CLASSES if any(mark in text for text in bare)), None)
    return [{word.strip(" '\"") for word in text.split(mark)} - {""} for text in bare]


def _check_known(path: Path, found: list[str], names: Sequence[str]) -> None:
    unknown = [name for name in found if name not in names]
    if unknown:
        raise DatasetError(
            f"{path}: {some(unknown)} are not among the {len(names)} classes of the training "
            f"images ({some(list(names))})"
        )


def _targets(
    path: Path,
    folder: Path,
    files: list[str],
    named: Named,
    names: list[str],
    table: NDArray,
    columns: list[int],
) -> Targets:
    """Each file's row; DatasetError where two lines give one file different ones."""
    indices = np.array([index for index, _ in named.pairs])
    order = np.argsort(indices, kind="stable")
    again = np.flatnonzero(np.diff(indices[order]) == 0)
    for place in again:
        if not np.array_equal(table[order[place]], table[order[place + 1]]):
            lines = [named.line(named.pairs[order[p]][1]) for p in (place, place + 1)]
            raise DatasetError(f"{path}: {lines[0]!r} and {lines[1]!r} differ; remove one of them")
    first = np.delete(order, again + 1)
    shown = ", ".join(named.title(column) for column in columns[:3])
    row = table[first[0]]
    example = (
        [names[c] for c in np.flatnonzero(row)]
        if row.dtype == bool
        else [f"{value:g}" for value in row]
    )
    remark = (
        f"targets: {shown}{', ...' if len(columns) > 3 else ''} of {one_line(path.name)}; "
        f"{one_line(files[indices[first[0]]])} is {', '.join(example[:5]) or 'nothing'}"
    )
    skipped = [named.title(c) for c in named.others() if c not in columns]
    if skipped:
        remark += f"; not read: {', '.join(skipped)}"
    labelled = set(indices.tolist())
    remarks = [remark, *left_out(path, folder, named, labelled, files)]
    return Targets(names, indices[first], table[first], remarks)
