"""Label files: which class each image of a flat folder is of.

Understood: Tiny ImageNet's val_annotations.txt (tabs), two columns of text or CSV in either order,
more columns beside them, Kaggle's LOC_val_solution.csv, and ImageNet's development kits (a folder
or .tar.gz). A label is a class name or an index into the classes; a name may lack its extension or
have folders before it.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.decode import formats_by_suffix
from alexnet_dali.pipeline.prepare.labels import devkit
from alexnet_dali.pipeline.prepare.names import same, some
from alexnet_dali.pipeline.prepare.text import read_text

_ABSENT, _AMBIGUOUS = -1, -2
_HEADINGS = {"label", "labels", "class", "classes", "target", "category", "synset", "class_id"}


def read_labels(path: Path, folder: Path, names: list[str], classes: list[str]) -> list[int]:
    """The label of each of the files `names` in `folder`, as an index into `classes`.

    DatasetError unless the label file at `path` names each of them exactly once, and no other.
    """
    files = _Files(names)
    if devkit.is_devkit(path):
        rows = devkit.validation_labels(path)
    else:
        rows = _choose_columns(path, list(_table(path)), files, classes)
    texts: dict[int, str] = {}
    absent = []
    for name, text in rows:
        index = files.index(name)
        if index == _AMBIGUOUS:
            raise DatasetError(f"{path}: {name} could be several files in {folder}; add its folder")
        if index == _ABSENT:
            absent.append(name)
        elif texts.setdefault(index, text) != text:
            raise DatasetError(f"{path}: {name} is labelled twice, as {texts[index]} and {text}")
    missing = [name for index, name in enumerate(names) if index not in texts]
    if missing:
        also = f"; it labels {some(absent)}, which are not there" if absent else ""
        raise DatasetError(
            f"{path}: no label for {len(missing)} of {len(names)} files in {folder}: "
            f"{some(missing)}{also}"
        )
    if absent:
        raise DatasetError(
            f"{path}: labels {len(absent)} files that are not in {folder}: {some(absent)}"
        )
    return _indices(path, names, [texts[index] for index in range(len(names))], classes)


class _Files:
    """Finds a file by any name that a label file may call it."""

    def __init__(self, names: list[str]) -> None:
        self._known: dict[str, int] = {}
        for index, name in enumerate(names):
            plain = PurePosixPath(same(name))
            stem = plain.with_suffix("").as_posix() if plain.suffix else plain.as_posix()
            for key in {plain.as_posix(), stem, plain.name, plain.stem}:
                known = self._known.setdefault(key, index)
                if known != index:
                    self._known[key] = _AMBIGUOUS

    def index(self, name: str) -> int:
        """The file's index; _ABSENT or _AMBIGUOUS where there is not one such file."""
        plain = PurePosixPath(same(name).replace("\\", "/"))
        is_image = plain.suffix.lower() in formats_by_suffix()
        for whole in (plain, plain.with_suffix("")) if is_image else (plain,):
            for first in range(len(whole.parts)):
                index = self._known.get("/".join(whole.parts[first:]), _ABSENT)
                if index != _ABSENT:
                    return index
        return _ABSENT


def _table(path: Path) -> Iterator[list[str]]:
    """The fields of each line."""
    for line in read_text(path).splitlines():
        if not line.strip() or line.startswith(("#", "sep=")):
            continue
        delimiter = next((mark for mark in "\t;," if mark in line), None)
        try:
            if delimiter:
                fields = next(csv.reader([line], delimiter=delimiter))
            elif line.lstrip().startswith('"'):
                fields = next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True))
            else:
                fields = line.rsplit(None, 1)  # a name may hold spaces, a class does not
        except csv.Error as error:
            raise DatasetError(f"{path}: expected 'name label' on every line ({error})") from error
        yield [field.strip() for field in fields]


def _choose_columns(
    path: Path, rows: list[list[str]], files: _Files, classes: list[str]
) -> list[tuple[str, str]]:
    """(name, label) of each row: the column that names files, and the column of classes.

    A heading is left out.
    """
    width = max((len(row) for row in rows), default=0)
    matches = [
        sum(len(row) > column and files.index(row[column]) != _ABSENT for row in rows)
        for column in range(width)
    ]
    if width < 2 or not any(matches):
        first = " ".join(rows[0])[:80] if rows else ""
        raise DatasetError(
            f"{path}: expected 'name label' on every line, with the names of the images' files; "
            f"its first line is {first!r}"
        )
    name = matches.index(max(matches))
    heading = rows[0] if files.index(rows[0][min(name, len(rows[0]) - 1)]) == _ABSENT else None
    label = _label_column(path, rows, heading, name, classes)
    short = next((n for n, row in enumerate(rows, 1) if len(row) <= max(name, label)), None)
    if short is not None:
        raise DatasetError(
            f"{path}: expected 'name label', found {' '.join(rows[short - 1])[:80]!r}"
        )
    pairs = [(row[name], row[label]) for row in rows]
    return pairs[1:] if _is_heading(pairs[0], files, classes) else pairs


def _label_column(
    path: Path, rows: list[list[str]], heading: list[str] | None, name: int, classes: list[str]
) -> int:
    """The column with a heading such as label; else that of class names; else that of numbers.

    Without a heading, numbers are beside the names. DatasetError where several columns could be it.
    """
    others = [column for column in range(max(map(len, rows))) if column != name]
    called = [c for c in others if heading and c < len(heading) and _is_label_heading(heading[c])]
    if called:
        return called[0]
    known = {same(text) for text in classes}
    named = [c for c in others if _most(rows, c, lambda text: same(text) in known)]
    numbers = [c for c in others if _most(rows, c, str.isdecimal)]
    beside = name + 1 if name + 1 in others else name - 1
    if len(named or numbers) == 1:
        return (named or numbers)[0]
    if not named and (heading is None or not numbers):
        return beside
    found = ", ".join(heading or [f"column {column + 1}" for column in named])
    raise DatasetError(
        f"{path}: several columns could be the label ({found}); name one of them label"
    )


def _is_label_heading(text: str) -> bool:
    return text.lower() in _HEADINGS


def _most(rows: list[list[str]], column: int, fits: Callable[[str], bool]) -> bool:
    """Whether most rows have a text in `column` that fits, or whose first word does."""
    texts = [row[column] for row in rows if len(row) > column]
    fitting = sum(fits(text) or fits((text.split() or [""])[0]) for text in texts)
    return 2 * fitting > len(rows)


def _is_heading(pair: tuple[str, str], files: _Files, classes: list[str]) -> bool:
    """Whether a first row names neither a file nor a class."""
    name, text = pair
    known = text in classes or text.split()[:1] in [[name] for name in classes]
    return files.index(name) == _ABSENT and not known and not text.isdecimal()


def _indices(path: Path, names: list[str], texts: list[str], classes: list[str]) -> list[int]:
    """Labels are all class names, or all indices: class names may be numbers themselves."""
    index = {same(name): label for label, name in enumerate(classes)}
    # Kaggle's solution has boxes behind the class.
    words = [text if same(text) in index else (text.split() or [""])[0] for text in texts]
    if not any(same(word) in index for word in words):
        index = {str(label): label for label in range(len(classes))}
    from_one = set(words) <= {str(number) for number in range(1, len(classes) + 1)}
    for name, word in zip(names, words, strict=True):
        if same(word) not in index:
            raise DatasetError(
                f"{path}: {name} is labelled {word!r}; expected a training class "
                f"({some(classes)}) on every line, or a number from 0 to {len(classes) - 1} on "
                "every line" + ("; these begin at 1: subtract 1" if from_one else "")
            )
    return [index[same(word)] for word in words]
