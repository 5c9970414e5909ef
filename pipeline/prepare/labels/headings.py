"""What the heading of a column says: that it names files, or that it holds labels."""

import re

_FILES = {"file", "filename", "filepath", "path", "image", "img", "id", "name", "picture", "photo"}
_LABELS = {"label", "class", "target", "category", "synset", "wnid"}
_PLURALS = {"labels": "label", "classes": "class", "targets": "target", "categories": "category"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def names_files(heading: str) -> bool:
    """Whether it is such as filename, image_id or path."""
    return bool(_FILES & _words(heading)) and not is_label(heading)


def is_label(heading: str) -> bool:
    """Whether it is such as label, class_name, ClassId or true_label."""
    return bool(_LABELS & _words(heading))


def is_index(heading: str) -> bool:
    """Whether it says that its numbers count the class folders: class_index, label_idx."""
    return is_label(heading) and bool({"index", "idx"} & _words(heading))


def is_name(heading: str) -> bool:
    """Whether it says that what it holds is the name of a class folder: class_name, wnid."""
    return is_label(heading) and bool({"name", "synset", "wnid"} & _words(heading))


def _words(heading: str) -> set[str]:
    words = {word.lower() for word in _WORD.findall(heading)}
    return {_PLURALS.get(word, word) for word in words}
