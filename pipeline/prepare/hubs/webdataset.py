"""WebDataset shards of others: tar archives with `key.jpg` and `key.cls` or `key.json`."""

import json

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.decode import formats_by_suffix
from alexnet_dali.pipeline.prepare.archives.tree import Tree
from alexnet_dali.pipeline.prepare.labelled import Labelled
from alexnet_dali.pipeline.prepare.names import some

_LABEL_KEYS = ("label", "cls", "class")


def is_one(tree: Tree) -> bool:
    """Whether images come with other files of the same key, as labels or texts do."""
    if tree.places is None:
        return False
    kinds: dict[str, set[str]] = {}
    for name in tree.names:
        key, kind = _split(name)
        kinds.setdefault(key, set()).add(kind)
    return 2 * sum(len(of_key) > 1 for of_key in kinds.values()) > len(kinds)


def labelled(tree: Tree) -> Labelled:
    """The images with their labels; DatasetError where an image has none, or a label two images."""
    images, labels = _pairs(tree)
    unlabelled = sorted(images.keys() - labels.keys())
    if unlabelled:
        raise DatasetError(
            f"{tree.path}: {len(unlabelled)} of {len(images)} images have no .cls file and no "
            f".json file with a label: {some(unlabelled)}"
        )
    if not images:
        raise DatasetError(f"{tree.path}: found labels, but no image beside them")
    assert tree.places is not None
    indices = list(images.values())
    return Labelled(
        tree.path,
        tree.root,
        [tree.names[i] for i in indices],
        [tree.places[i] for i in indices],
        [labels[key] for key in images],
    )


def _pairs(tree: Tree) -> tuple[dict[str, int], dict[str, int | str]]:
    """By key: the index of the image in the tree, and the label."""
    suffixes = {suffix.removeprefix(".") for suffix in formats_by_suffix()}
    images: dict[str, int] = {}
    labels: dict[str, int | str] = {}
    for index, name in enumerate(tree.names):
        key, kind = _split(name)
        if kind in suffixes:
            if key in images:
                raise DatasetError(
                    f"{tree.path}: {tree.names[images[key]]} and {name} are two images of one key; "
                    "expected one"
                )
            images[key] = index
        elif kind == "cls":
            labels[key] = _number(_text(tree, index).strip())
        elif kind == "json" and key not in labels:
            label = _label_of_json(_text(tree, index))
            if label is not None:
                labels[key] = label
    return images, labels


def _split(name: str) -> tuple[str, str]:
    """The key, and what follows the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower()


def _text(tree: Tree, index: int) -> str:
    assert tree.places is not None
    try:
        data = tree.places[index].content(tree.root).tobytes()
    except ValueError as error:
        raise DatasetError(f"{tree.path}: {tree.names[index]}: {error}") from error
    return data.decode("utf-8-sig", errors="surrogateescape")


def _label_of_json(text: str) -> int | str | None:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = [about[key] for key in _LABEL_KEYS if key in about] if isinstance(about, dict) else []
    return found[0] if found and isinstance(found[0], (int, str)) else None


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text
