"""WebDataset samples of others: `key.jpg` with its label in `key.cls` or `key.json`."""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives.tree import Tree
from alexnet_dali.pipeline.prepare.labelled import Label, Labelled, check_alike, check_one_part
from alexnet_dali.pipeline.prepare.labels.headings import is_label
from alexnet_dali.pipeline.prepare.names import image_suffixes, some, suffix

_CLS = ".cls files"
_SHARD = re.compile(r"(|.*[-_.])\d+(-of-\d+)?")


def labelled(tree: Tree) -> Labelled | None:
    """The images with the labels that lie beside them; None where the images bring none.

    A key ends at the last dot, so that names may hold dots, or at the first dot where no label is
    found so, as in `key.input.jpg` and `key.target.cls`. DatasetError where images are left over,
    or labels from JSON files contradict class folders.
    """
    with_labels = any(suffix(name) in (".cls", ".json") for name in tree.names)
    for split in (_at_last_dot, _at_first_dot) if with_labels else ():
        samples = _Samples.of(tree, split)
        labels = samples.labels()
        own = [key for key in samples.images if key in labels or not _is_mask(key, labels)]
        if 2 * len(labels) > len(own):
            check_one_part(tree.path, tree.archives())
            return _labelled(samples, labels)
    _check_not_shards(tree)
    return None


@dataclass
class _Samples:
    """Files of a tree by key: the images, and their labels' .cls and .json files."""

    tree: Tree
    images: dict[str, list[int]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Tree, split: Callable[[str], str]) -> "_Samples":
        """With the keys that `split` makes of names."""
        samples, images = cls(tree), image_suffixes()
        for index, name in enumerate(tree.names):
            kind = suffix(name)
            if kind in images:
                samples.images.setdefault(split(name), []).append(index)
            elif kind == ".cls":
                samples.numbers[split(name)] = index
            elif kind == ".json":
                samples.notes.setdefault(split(name), []).append(index)
        return samples

    def labels(self) -> dict[str, dict[str, Label]]:
        """The labels of each image that has some, by what tells them; the first is the label."""
        found: dict[str, dict[str, Label]] = {}
        for key in self.images:
            told: dict[str, Label] = {}
            for index in self.notes.get(key, ()):
                told |= _labels_of_json(_text(self.tree, index))
            if key in self.numbers:
                told[_CLS] = _number(_text(self.tree, self.numbers[key]).strip())
            if told:
                found[key] = {title: told[title] for title in sorted(told, key=_rank)}
        return found


def _labelled(samples: _Samples, told: dict[str, dict[str, Label]]) -> Labelled:
    tree, images = samples.tree, samples.images
    names = tree.names
    labels = {key: next(iter(of_key.values())) for key, of_key in told.items()}
    left = [names[place] for key in images.keys() - labels.keys() for place in images[key]]
    masks = sorted(name for name in left if _is_mask(name, labels))
    missing = sorted(set(left) - set(masks))
    if missing:
        raise DatasetError(
            f"{tree.path}: {len(missing)} of {sum(map(len, images.values()))} images have no .cls "
            f"file and no .json file with a label: {some(missing)}"
        )
    for key in labels:
        if len(images[key]) > 1:
            first, second = (names[place] for place in images[key][:2])
            raise DatasetError(
                f"{tree.path}: {first} and {second} are two images of one key; expected one"
            )
    titles = sorted({title for of_key in told.values() for title in of_key}, key=_rank)
    check_alike(
        tree.path,
        [names[images[key][0]] for key in told],
        {title: [of_key.get(title) for of_key in told.values()] for title in titles},
        "write shards with one of them",
    )
    if not samples.numbers:
        _check_against_folders(tree, {names[images[key][0]]: labels[key] for key in labels})
    alone = [names[place] for key, place in samples.numbers.items() if key not in images]
    found = {
        "skipped images without a label of their own, beside others of the same key": masks,
        "skipped labels without an image": sorted(alone),
    }
    indices = sorted(images[key][0] for key in labels)
    by_index = {images[key][0]: label for key, label in labels.items()}
    return Labelled(
        tree.path,
        tree.root,
        [names[i] for i in indices],
        [tree.own_name(i) for i in indices],
        None if tree.places is None else [tree.places[i] for i in indices],
        [by_index[i] for i in indices],
        remarks=tree.remarks()
        + [
            f"{tree.path}: {what}: {some(which)} ({len(which)} in all)"
            for what, which in found.items()
            if which
        ],
        origin=titles[0],
    )


def _is_mask(name: str, labels: Collection[str]) -> bool:
    """Whether another image has the same key and a label: key.seg.png beside key.jpg."""
    return _at_first_dot(name) in labels


def _check_against_folders(tree: Tree, labels: dict[str, Label]) -> None:
    """DatasetError where class folders give other labels than JSON files: either may be meant."""
    if len(tree.archives()) > 1:
        return  # folders are shards
    top = os.path.commonpath([os.path.dirname(name) for name in labels])
    folders = {name: name[len(top) :].lstrip("/").rpartition("/")[0] for name in labels}
    folders = {name: folder.split("/")[0] for name, folder in folders.items()}
    pairs = {(folders[name], label) for name, label in labels.items()}
    if "" in folders.values() or len(pairs) == len(set(folders.values())) == len(
        set(labels.values())
    ):
        return
    name = min(labels)
    raise DatasetError(
        f"{tree.path}: the folders of the images and the labels in their .json files are different "
        f"classes: {name} is {folders[name]!r} or {labels[name]!r}; remove the .json files, or put "
        "all images into one folder"
    )


def _check_not_shards(tree: Tree) -> None:
    """DatasetError where images come with other files, and no folders say what classes they are."""
    if tree.top_folders() and not _are_shards(tree.archives()):
        return
    others: dict[str, set[str]] = {}
    for name in tree.names:
        others.setdefault(_at_last_dot(name), set()).add(suffix(name))
    images = [kinds for kinds in others.values() if kinds & image_suffixes()]
    accompanied = sum(bool(kinds - image_suffixes()) for kinds in images)
    if 2 * accompanied > len(images):
        raise DatasetError(
            f"{tree.path}: {len(images)} of {len(images)} images have no .cls file and no .json "
            "file with a label, and no class folder"
        )


def _are_shards(archives: Sequence[str]) -> bool:
    """Whether archives are called as shards are: train-0000.tar, train-0001.tar."""
    stems = [_SHARD.fullmatch(Path(archive).stem) for archive in archives]
    return len(stems) > 1 and None not in stems and len({stem[1] for stem in stems if stem}) == 1


def _at_last_dot(name: str) -> str:
    return os.path.splitext(name)[0]


def _at_first_dot(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _text(tree: Tree, index: int) -> str:
    try:
        data = tree.content(index).tobytes()
    except ValueError as error:
        raise DatasetError(f"{tree.path}: {tree.names[index]}: {error}") from error
    return data.decode("utf-8-sig", errors="surrogateescape")


def _rank(title: str) -> tuple[bool, bool, str]:
    return title != _CLS, title != _key("label"), title


def _key(name: str) -> str:
    return f'"{name}" in .json files'


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
