"""Tables as text: for a terminal, and in Markdown."""

from collections.abc import Collection, Mapping, Sequence


def plain(
    rows: Sequence[Sequence[str]], headings: Sequence[str], right: Collection[int] = ()
) -> str:
    """Columns two spaces apart, under a line; the columns with the numbers `right` end flush."""
    cells, widths = _padded(rows, headings, right)
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(row).rstrip() for row in cells)


def markdown(
    rows: Sequence[Sequence[str]], headings: Sequence[str], right: Collection[int] = ()
) -> str:
    """A table as GitHub shows it; the columns with the numbers `right` end flush in the text."""
    cells, widths = _padded(rows, headings, right)
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def records(rows: Sequence[Mapping[str, object]], precision: str = "") -> str:
    """A Markdown table of dicts, whose keys are the headings; floats as `precision` formats them.

    A key that a row lacks is an empty cell. Columns of numbers end flush.
    """
    headings = list(dict.fromkeys(key for row in rows for key in row))
    numbers = {
        place
        for place, key in enumerate(headings)
        if all(isinstance(row[key], int | float) for row in rows if row.get(key) is not None)
    }
    cells = [[_cell(row.get(key), precision) for key in headings] for row in rows]
    return markdown(cells, headings, numbers)


def _cell(value: object, precision: str) -> str:
    if value is None:
        return ""
    return format(value, precision) if isinstance(value, float) else str(value)


def _padded(
    rows: Sequence[Sequence[str]], headings: Sequence[str], right: Collection[int]
) -> tuple[list[list[str]], list[int]]:
    """Headings and rows with every cell as wide as its column, and those widths.

    What a row lacks at its end is empty.
    """
    table = [[*row, *[""] * (len(headings) - len(row))] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in table
    ], widths
