"""Some classes, or some images of each class, of a prepared folder: nothing is decoded again."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.names import same, some
from alexnet_dali.pipeline.prepare.prepared_files import PreparedFiles
from alexnet_dali.pipeline.prepare.text import read_text


def subset(
    whole: Dataset, chosen: Sequence[int], per_class: int | None = None, seed: int = 0
) -> PreparedFiles:
    """The images of the classes `chosen`, which are labels of `whole` and become 0, 1, ....

    With `per_class`, so many training images of each are drawn by `seed`; other lists keep all.
    Statistics stay those of all training images of `whole`. DatasetError where a class has too few.
    """
    train = _of_classes(whole.train.labels, chosen)
    val = _of_classes(whole.val.labels, chosen)
    if per_class is not None:
        train = [
            _draw(places, per_class, (seed, label), whole.classes[label])
            for label, places in zip(chosen, train, strict=True)
        ]
    test = [] if whole.test is None else _of_classes(whole.test.labels, chosen)
    return PreparedFiles(
        _listed(whole.train, train, whole.folder),
        _listed(whole.val, val, whole.folder),
        [whole.classes[label] for label in chosen],
        [whole.names[label] for label in chosen],
        whole.stats,
        [],
        [],
        test=_listed(whole.test, test, whole.folder)
        if whole.test and any(map(len, test))
        else None,
    )


def read_classes(path: Path, whole: Dataset) -> list[int]:
    """The labels that a file names, in its order: a class or one of its names on each line.

    More words may follow a class. DatasetError where a line is no class, one of several, or one
    that another line has named.
    """
    folders = {same(name): label for label, name in enumerate(whole.classes)}
    labels: list[int] = []
    unknown: list[str] = []
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        found = _labels(line, folders, whole.names)
        if len(found) > 1:
            several = some([whole.classes[label] for label in found])
            raise DatasetError(f"{path}: {line!r} is the name of {several}; write one of them")
        if found and found[0] in labels:
            raise DatasetError(f"{path}: {line!r} is class {whole.classes[found[0]]} once more")
        labels += found
        if not found:
            unknown.append(line)
    if unknown or not labels:
        words = [*folders, *(word.strip() for name in whole.names for word in name.split(","))]
        near = difflib.get_close_matches(unknown[0], words, 1) if unknown else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DatasetError(
            f"{path}: expected a class or a name of {whole.folder / 'classes.txt'} or names.txt on "
            f"each line, found {some(unknown) if unknown else 'nothing'}{hint}"
        )
    return labels


def _labels(line: str, folders: dict[str, int], names: Sequence[str]) -> list[int]:
    """The labels that a line may mean."""
    if same(line) in folders:
        return [folders[same(line)]]
    wanted = line.casefold()
    whole = [label for label, name in enumerate(names) if name.casefold() == wanted]
    synonyms = [
        label
        for label, name in enumerate(names)
        if wanted in (word.strip() for word in name.casefold().split(","))
    ]
    first = folders.get(same(line.split()[0].rstrip(":,")))
    return whole or synonyms or ([] if first is None else [first])


def _of_classes(labels: NDArray[np.int64], chosen: Sequence[int]) -> list[NDArray[np.int64]]:
    """Where the images of each class are, in their list's order."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], chosen)
    last = np.searchsorted(labels[order], chosen, side="right")
    return [order[begin:end] for begin, end in zip(first, last, strict=True)]


def _draw(
    places: NDArray[np.int64], count: int, seed: tuple[int, int], name: str
) -> NDArray[np.int64]:
    if len(places) < count:
        raise DatasetError(
            f"class {name} has {len(places)} training images; expected --per-class of at most that"
        )
    return np.sort(np.random.default_rng(seed).choice(places, count, replace=False))


def _listed(images: ImageList, classes: list[NDArray[np.int64]], folder: Path) -> ImageList:
    """Their list; images of the whole folder's own store are found from anywhere."""
    some = images.take(np.concatenate(classes))
    return ImageList.of(
        os.path.abspath(folder / images.root),
        map(some.name, range(len(some))),
        np.repeat(np.arange(len(classes)), [len(places) for places in classes]),
        some.sizes,
        some.spans,
        some.lengths,
    )
