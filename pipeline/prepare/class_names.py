"""Names of classes for people: "tench" where the class folder is n01440764."""

from pathlib import Path

from pipeline.dataset import DatasetError
from pipeline.prepare import devkit
from pipeline.prepare.names import same, some
from pipeline.prepare.text import read_text

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
                return _names(read_text(folder / file), classes)
    return None


def read_names(path: Path, classes: list[str]) -> list[str]:
    """Names from a file: `class name` on each line, or a name for each class in their order.

    DatasetError where a class has none.
    """
    text = read_text(path)
    names = _names(text, classes)
    if names is not None:
        return names
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != len(classes):
        raise DatasetError(
            f"{path}: expected a line 'class name' for each of the {len(classes)} classes "
            f"({some(classes)}), or {len(classes)} names in their order; found {len(lines)} lines"
        )
    return lines


def _names(text: str, classes: list[str]) -> list[str] | None:
    """The name of each class in lines of `class name`; None unless every class has one."""
    wanted = {same(name) for name in classes}
    found: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split("\t", 1) if "\t" in line else line.split(None, 1)
        if len(parts) == 2 and same(parts[0]) in wanted:
            found[same(parts[0])] = parts[1].strip()
    return [found[same(name)] for name in classes] if len(found) == len(wanted) else None
