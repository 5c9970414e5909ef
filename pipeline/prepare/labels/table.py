"""The lines of a label file as columns of fields, in each way in which they may be meant."""

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import zip_longest

Columns = list[tuple[str, ...]]
_MARKS = "\t;,|"
_MOST_EMPTY = 1_000_000
"""Fields that a table may lack: a line of a million commas is no table."""


def tables(text: str) -> Iterator[Columns]:
    """By each mark that is on most lines; then by blanks between all words, after the first, and
    before the last, as names of files and of classes may hold blanks.

    csv.Error where a field is longer than csv takes.
    """
    if text.startswith("sep="):  # Excel's
        text = text.partition("\n")[2]
    lines = [line for line in io.StringIO(text, newline=None) if line.strip()]
    for mark in _MARKS:
        if 2 * sum(mark in line for line in lines) > len(lines):
            yield from _columns(csv.reader(io.StringIO(text, newline=""), delimiter=mark))
    words = list(csv.reader((" ".join(line.split()) for line in lines), delimiter=" "))
    if len({len(row) for row in words}) == 1:
        yield from _columns(words)
    yield from _columns(line.split(None, 1) for line in lines)
    yield from _columns(line.rsplit(None, 1) for line in lines)


def _columns(rows: Iterable[list[str]]) -> Iterator[Columns]:
    """The columns, if there are two; rows of one column are left out at the end of nothing."""
    found = [row for row in ([_bare(field) for field in row] for row in rows) if any(row)]
    width = max(map(len, found), default=0)
    if width > 1 and width * len(found) <= sum(map(len, found)) + _MOST_EMPTY:
        yield list(zip_longest(*found, fillvalue=""))


def _bare(field: str) -> str:
    field = field.strip()
    return field[1:-1] if len(field) > 1 and field[0] == field[-1] == "'" else field
