"""Names of classes for people: "tench" where the class folder is n01440764."""

import re
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels import devkit
from alexnet_dali.pipeline.prepare.names import same, some
from alexnet_dali.pipeline.prepare.text import read_text

_LINE = re.compile(r"\s*\"?([^\s,:\"]+)\"?[\s,:]+(.+)")
FILES = ("LOC_synset_mapping.txt", "words.txt")
"""Kaggle's and Tiny ImageNet's lists of names, which lie near the images."""


def find_names(train: Path, label_file: Path | None, classes: list[str]) -> list[str] | None:
    """Names from the development kit, or from one of FILES beside `train` or above it, if any."""
    if label_file is not None and devkit.is_devkit(label_file):
        words = devkit.words(label_file)
        return [words.get(name, name) for name in classes] if words else None
    for folder in (train, *list(train.parents)[:4]):
        for file in FILES:
            if (folder / file).is_file():
                try:
                    found = _names(read_text(folder / file), classes)
                except DatasetError:  # some other file of that name
                    continue
                if len(found) == len(classes):
                    return [found[same(name)] for name in classes]
    return None


def read_names(path: Path, classes: list[str]) -> list[str]:
    """Names from a file: `class name` on each line, or a name for each class in their order.

    DatasetError where a class has none.
    """
    text = read_text(path)
    found = _names(text, classes)
    if len(found) == len(classes):
        return [found[same(name)] for name in classes]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if found or len(lines) != len(classes):
        missing = [name for name in classes if same(name) not in found]
        raise DatasetError(
            f"{path}: expected a line 'class name' for each of the {len(classes)} classes, or "
            f"{len(classes)} names in their order; no line is of {some(missing)}"
        )
    return lines


def _names(text: str, classes: list[str]) -> dict[str, str]:
    """Names by class, from lines of a class or its number, then a space, comma or colon."""
    wanted = {same(name) for name in classes}
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and same(match[1]) in wanted:
            found[same(match[1])] = match[2].strip()
    if not found:
        numbers = {str(number): same(name) for number, name in enumerate(classes)}
        for line in text.splitlines():
            match = _LINE.match(line)
            if match and match[1] in numbers:
                found[numbers[match[1]]] = match[2].strip()
    return found
