"""Which column of a label file is the label, and what its fields mean."""

from pathlib import Path
from typing import NamedTuple

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.classes import Classes, number, numbers
from alexnet_dali.pipeline.prepare.labels.headings import is_index, is_label, is_name
from alexnet_dali.pipeline.prepare.labels.named import Named
from alexnet_dali.pipeline.prepare.names import some


class Reading(NamedTuple):
    """One way to read a label file: the label of each pair of `named`, by one of its columns.

    `meaning` is empty where that holds class names.
    """

    named: Named
    column: int
    meaning: str
    labels: list[int]


class NoLabels(DatasetError):
    """No column can be the label."""


_CALL = ", or call the column class_index if its numbers count the sorted class folders from 0"


def readings(path: Path, named: Named, classes: Classes) -> list[Reading]:
    """The ways to read the table: by columns of class names, or else of numbers.

    Of several columns, those with a heading such as label count. NoLabels where there is none.
    """
    others, told = named.others(), headed_as_labels(named)
    by_name = [c for c in others if _are_names(set(named.texts(c)), classes)]
    if by_name:
        chosen = [c for c in by_name if c in told] or by_name
        return [Reading(named, c, "", _labels(named, c, classes) or []) for c in chosen]
    _check_names(path, named, others, classes)
    found, reason = [], None
    for column in _of_numbers(path, named, others, classes):
        try:
            found += _by_numbers(path, named, column, classes)
        except NoLabels as error:
            reason = reason or error
    if reason and not found:
        raise reason
    for reading in found:
        _check_not_of_other_names(path, reading, told, classes)
    return found


def headed_as_labels(named: Named) -> list[int]:
    """The columns whose headings say label, class or the like."""
    return [c for c in named.others() if named.heading and is_label(named.heading[c])]


def check_agreement(path: Path, chosen: Reading) -> None:
    """Columns that are headed as labels follow from the one that was chosen, or it is no label.

    DatasetError where two images of one class differ in such a column, or too few are of one class
    to tell.
    """
    named, told = chosen.named, headed_as_labels(chosen.named)
    few = len(chosen.labels) < 2 * len(set(chosen.labels)) and chosen.column not in told
    for column in told:
        if few and numbers(named.texts(column)) != chosen.labels:
            raise DatasetError(
                f"{path}: {named.title(chosen.column)} holds names of classes, but "
                f"{named.title(column)} is called like a label, as in the line "
                f"{named.line(named.pairs[0][1])!r}; call the column of names class_name, or "
                "remove it"
            )
        seen: dict[int, int] = {}
        for (_, row), label in zip(named.pairs, chosen.labels, strict=True):
            text = named.columns[column][row]
            before = seen.setdefault(label, row) if text else row
            if named.columns[column][before] != text:
                raise DatasetError(
                    f"{path}: {named.title(chosen.column)} and {named.title(column)} contradict "
                    f"each other in the lines {named.line(before)!r} and {named.line(row)!r}; "
                    "remove the one that is not the label"
                )


def _labels(named: Named, column: int, classes: Classes) -> list[int] | None:
    """By the names of classes; None where a field is none."""
    found = [classes.label(text) for text in named.texts(column)]
    return None if None in found else [label for label in found if label is not None]


def _are_names(texts: set[str], classes: Classes) -> bool:
    """Whether all are names of classes, and not only numbers, which prove nothing."""
    return numbers(texts) is None and all(classes.label(text) is not None for text in texts)


def _check_names(path: Path, named: Named, columns: list[int], classes: Classes) -> None:
    """NoLabels where a column holds class names, but not in all lines: numbers are no way out."""
    for column in columns:
        texts = named.texts(column)
        names = [number(text) is None and classes.label(text) is not None for text in texts]
        if any(names):
            wrong = next(i for i, text in enumerate(texts) if classes.label(text) is None)
            raise _no_label(path, named, column, wrong, _expected(classes))


def _of_numbers(path: Path, named: Named, columns: list[int], classes: Classes) -> list[int]:
    """The columns that may be numbers of classes; NoLabels where none says so."""
    heading = named.heading
    found = [c for c in columns if numbers(named.texts(c)) is not None]
    told = [c for c in columns if heading and is_label(heading[c])]
    if told or (not heading and len(columns) == 1):
        column = next((c for c in told or columns if c in found), None)
        if column is None:
            column = (told or columns)[0]
            wrong = next(i for i, text in enumerate(named.texts(column)) if number(text) is None)
            raise _no_label(path, named, column, wrong, _expected(classes))
        return [c for c in told or columns if c in found]
    flags = [c for c in columns if heading and classes.label(heading[c]) is not None]
    if flags:
        raise NoLabels(
            f"{path}: {named.title(flags[0])} is called like a class; columns of flags are not "
            "read: write one column, called label, with the class of each image"
        )
    if found:
        raise NoLabels(
            f"{path}: {', '.join(map(named.title, found))}: which of them is the label? Call it "
            f"label, in the first line: {named.line(0)!r} does not say"
        )
    raise NoLabels(
        f"{path}: no column holds {_expected(classes)}; a line of it is {named.line(0)!r}"
    )


def _check_not_of_other_names(
    path: Path, chosen: Reading, told: list[int], classes: Classes
) -> None:
    """NoLabels where another column names the classes of these numbers, as no folder is called:
    they may be the data set's own.
    """
    named = chosen.named
    if named.heading and is_index(named.heading[chosen.column]):
        return
    for column in told:
        texts = named.texts(column)
        pairs = set(zip(texts, chosen.labels, strict=True))
        alike = len(pairs) == len(set(texts)) == len(set(chosen.labels)) > 1
        if alike and numbers(texts) is None:
            raise _no_label(path, named, column, 0, "the name of a class folder" + _CALL)


def _by_numbers(path: Path, named: Named, column: int, classes: Classes) -> list[Reading]:
    """By class folders whose names are numbers, and by places among the sorted class folders.

    Headings such as class_name and class_index tell which. NoLabels where it is by neither.
    """
    heading = named.heading[column] if named.heading else ""
    texts = named.texts(column)
    places = numbers(texts) or []
    top, count = max(places), len(classes.names)
    as_places = Reading(named, column, f"numbers {min(places)} to {top}", places)
    by_name = None if is_index(heading) else _labels(named, column, classes)
    if by_name is not None:
        as_names = Reading(named, column, "names of class folders", by_name)
        return [as_names] if top >= count or is_name(heading) else [as_names, as_places]
    from_one = all(number(text) != 0 for text in named.columns[column])
    if top >= count:
        begin = "; these begin at 1: subtract 1, if they count the sorted class folders"
        expected = _expected(classes) + begin * (from_one and top == count)
        raise _no_label(path, named, column, places.index(top), expected)
    if is_name(heading) or (classes.are_numbers and not is_index(heading)):
        wrong = next(i for i, text in enumerate(texts) if classes.label(text) is None)
        raise _no_label(path, named, column, wrong, "the name of a class folder" + _CALL)
    if from_one and not is_index(heading):
        raise NoLabels(
            f"{path}: {named.title(column)} holds {as_places.meaning}, which may begin at 0 or at "
            f"1; write class names{_CALL}"
        )
    return [as_places]


def _expected(classes: Classes) -> str:
    return (
        f"a training class ({some(classes.names)}) on every line, or a number from 0 to "
        f"{len(classes.names) - 1} on every line"
    )


def _no_label(path: Path, named: Named, column: int, place: int, expected: str) -> NoLabels:
    row = named.pairs[place][1]
    return NoLabels(
        f"{path}: {named.columns[named.column][row]} is labelled "
        f"{named.columns[column][row]!r} in {named.title(column)}; expected {expected}"
    )
