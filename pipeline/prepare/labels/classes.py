"""What a field of a label file means: the name of a class, or a number."""

import re
from collections.abc import Collection

from alexnet_dali.pipeline.prepare.names import same

_NUMBER = re.compile(r"([0-9]{1,9})(\.0+)?")
_BETWEEN = re.compile(r"[\s_-]+")


class Classes:
    """Classes by their names. Case, and blanks for `_` or `-`, may differ where that is clear.

    So may zeros before a number; boxes may follow the name, as in Kaggle's lists for ImageNet.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.are_numbers = all(number(name) is not None for name in names)
        self._exact = {same(name): label for label, name in enumerate(names)}
        self._near: dict[str, int] = {}
        for label, name in enumerate(names):
            if self._near.setdefault(_near(name), label) != label:
                self._near[_near(name)] = -1
        self._seen: dict[str, int | None] = {}

    def label(self, text: str) -> int | None:
        """The class of that name; None where there is none, or the text has several."""
        if text not in self._seen:
            self._seen[text] = self._whole(text)
            words = [word for word in text.split() if number(word) is None]
            if self._seen[text] is None and words and text.startswith(words[0]):
                found = {self._whole(word) for word in words}
                self._seen[text] = found.pop() if len(found) == 1 else None
        return self._seen[text]

    def _whole(self, text: str) -> int | None:
        label = self._exact.get(same(text), self._near.get(_near(text), -1))
        return None if label == -1 else label


def number(text: str) -> int | None:
    """The whole number that a text is, also as 2.0."""
    match = _NUMBER.fullmatch(text)
    return int(match[1]) if match else None


def numbers(texts: Collection[str]) -> list[int] | None:
    """All as numbers; None where one of them is none."""
    found = [number(text) for text in texts]
    return None if None in found else [n for n in found if n is not None]


def _near(name: str) -> str:
    value = number(name)
    return str(value) if value is not None else _BETWEEN.sub(" ", same(name).casefold()).strip()
