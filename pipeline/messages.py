"""Texts that people read: what is wrong, and names, which may hold any characters."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class DatasetError(ValueError):
    """A prepared folder, a source folder or an image that can't be used, and what to do.

    Names of files are in it as they are; its text is fit for a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def one_line(text: str) -> str:
    """`text` with control characters spelt out, so that it can't break a table of lines."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return printable(text)


def printable(text: str) -> str:
    """`text` with control characters spelt out, but for line breaks and tabs.

    A name may hold codes that move a terminal's cursor, or clear its screen.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def short(names: Sequence[str]) -> list[str]:
    """For pictures: the first of each class's names, in characters that can be drawn."""
    return [name.split(",")[0].encode(errors="replace").decode() for name in names]
