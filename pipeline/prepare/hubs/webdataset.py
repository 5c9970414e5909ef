"""WebDataset shards of others: tar archives with `key.jpg` and `key.cls` or `key.json`."""

import json

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.decode import formats_by_suffix
from alexnet_dali.pipeline.prepare.archives.tree import Tree
from alexnet_dali.pipeline.prepare.labelled import Label, Labelled, check_alike
from alexnet_dali.pipeline.prepare.labels.headings import is_label
from alexnet_dali.pipeline.prepare.names import some

_CLS = ".cls files"


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
    images, told = _told(tree)
    unlabelled = sorted(key for key in images if not told.get(key))
    if unlabelled:
        raise DatasetError(
            f"{tree.path}: {len(unlabelled)} of {len(images)} images have no .cls file and no "
            f".json file with a label: {some(unlabelled)}"
        )
    if not images:
        raise DatasetError(f"{tree.path}: found labels, but no image beside them")
    assert tree.places is not None
    indices = list(images.values())
    names = [tree.names[i] for i in indices]
    titles = sorted({title for of_key in told.values() for title in of_key}, key=_rank)
    check_alike(
        tree.path,
        names,
        {title: [told[key].get(title) for key in images] for title in titles},
        "write shards with one of them",
    )
    first = [min(told[key], key=_rank) for key in images]
    labels = [told[key][title] for key, title in zip(images, first, strict=True)]
    places = [tree.places[i] for i in indices]
    return Labelled(tree.path, tree.root, names, places, labels, None, first[0])


def _rank(title: str) -> tuple[bool, bool, str]:
    return title != _CLS, title != _key("label"), title


def _key(name: str) -> str:
    return f'"{name}" in .json files'


def _told(tree: Tree) -> tuple[dict[str, int], dict[str, dict[str, Label]]]:
    """By key: the index of the image in the tree, and the labels by what tells them."""
    suffixes = {suffix.removeprefix(".") for suffix in formats_by_suffix()}
    images: dict[str, int] = {}
    told: dict[str, dict[str, Label]] = {}
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
            told.setdefault(key, {})[_CLS] = _number(_text(tree, index).strip())
        elif kind == "json":
            told.setdefault(key, {}).update(_labels_of_json(_text(tree, index)))
    return images, told


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


def _labels_of_json(text: str) -> dict[str, Label]:
    """What keys such as label or class_name have, if they are numbers or texts."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {
        _key(key): value
        for key, value in (about.items() if isinstance(about, dict) else ())
        if isinstance(value, (int, str)) and (key == "cls" or is_label(key))
    }


def _number(text: str) -> Label:
    return int(text) if text.isdecimal() and len(text) < 10 else text
