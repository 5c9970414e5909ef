"""A table of which one column names files."""

from collections.abc import Iterator
from dataclasses import dataclass

from alexnet_dali.pipeline.prepare.labels.classes import Classes, number
from alexnet_dali.pipeline.prepare.labels.files import AMBIGUOUS, Files, is_image_name
from alexnet_dali.pipeline.prepare.labels.headings import is_label, names_files
from alexnet_dali.pipeline.prepare.labels.table import Columns


@dataclass(frozen=True)
class Named:
    """`columns` without the `heading`, which is empty where there is none.

    `column` names files: `pairs` are (file, row) for each row that names one, `several` rows whose
    name could be that of several files, and `elsewhere` the names of other files.
    """

    heading: tuple[str, ...]
    columns: Columns
    column: int
    pairs: list[tuple[int, int]]
    several: list[int]
    elsewhere: list[str]

    def title(self, column: int) -> str:
        """What a user may call a column."""
        return f'column "{self.heading[column]}"' if self.heading else f"column {column + 1}"

    def texts(self, column: int) -> list[str]:
        """The fields of a column, for each of the pairs."""
        return [self.columns[column][row] for _, row in self.pairs]

    def line(self, row: int) -> str:
        """A row, as a message shows it."""
        return ",".join(column[row] for column in self.columns)[:80]

    def others(self) -> list[int]:
        """The columns beside the one of names that are not empty."""
        return [c for c, column in enumerate(self.columns) if c != self.column and any(column)]

    def has_suffixes(self) -> bool:
        """Whether the names end as those of images do."""
        return all(is_image_name(text) for text in self.texts(self.column))


def by_names(columns: Columns, files: Files, classes: Classes) -> Iterator[Named]:
    """The table by each column that may name all files; by each, if none does."""
    heading: tuple[str, ...] = ()
    columns = _without_comments(columns, files)
    first = tuple(column[0] for column in columns) if columns else ()
    if first and _is_heading(first, files, classes):
        heading, columns = first, [column[1:] for column in columns]
    enough = [c for c, column in enumerate(columns) if len(set(column)) >= files.num_images]
    for column in enough or range(len(columns)):
        yield _by_name(heading, columns, column, files)


def _without_comments(columns: Columns, files: Files) -> Columns:
    comments = {
        row
        for row, text in enumerate(columns[0])
        if text.startswith("#") and not any(files.find(column[row]) for column in columns)
    }
    if not comments:
        return columns
    kept = [row for row in range(len(columns[0])) if row not in comments]
    return [tuple(column[row] for row in kept) for column in columns] if kept else []


def _is_heading(row: tuple[str, ...], files: Files, classes: Classes) -> bool:
    """Whether a first row names no file, and has words that head columns, or no value at all."""
    if any(is_image_name(text) or files.find(text) for text in row):
        return False
    values = [text for text in row if classes.label(text) is not None or number(text) is not None]
    return not values or any(
        names_files(text) or is_label(text) for text in row if text not in values
    )


def _by_name(heading: tuple[str, ...], columns: Columns, column: int, files: Files) -> Named:
    best: dict[int, tuple[tuple[bool, int], list[int]]] = {}
    several, elsewhere = [], []
    for row, text in enumerate(columns[column]):
        match = files.find(text)
        if match is None:
            elsewhere.append(text)
        elif match.index == AMBIGUOUS:
            several.append(row)
        else:
            agreement = match.exact, match.folders
            known, rows = best.setdefault(match.index, (agreement, []))
            if agreement > known:
                elsewhere += [columns[column][other] for other in rows]
                best[match.index] = agreement, [row]
            elif agreement == known:
                rows.append(row)
            else:
                elsewhere.append(text)
    pairs = [(index, row) for index, (_, rows) in best.items() for row in rows]
    return Named(heading, columns, column, pairs, several, elsewhere)
