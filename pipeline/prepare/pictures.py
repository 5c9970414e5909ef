"""Pictures by the paths that users give: where they lie, what their folders say, how they are read.

Files are judged as preparation judges them. Those that DALI does not decode as others do, and those
that an archive compresses, are converted as `--resize` does in preparation.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.prepare.examine import tasks
from alexnet_dali.pipeline.prepare.names import same
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.prepare.sources import Source, any_files
from alexnet_dali.pipeline.prepare.store import StoreFormat
from alexnet_dali.pipeline.prepare.workers import Workers

QUALITY = 90
"""Of converted pictures, as preparation's default is."""

TOGETHER = 512
"""Pictures that are examined before they are classified."""

Skipped = tuple[str, str]
"""A path, and why it can't be used."""


class Picture(NamedTuple):
    """A file by the path that users know, and the class that its folder is named as, if one is."""

    path: str
    label: int | None


@dataclass(frozen=True)
class Pictures:
    """Files that lie alike, in folders or in archives, in the order in which they were named."""

    source: Source
    known: list[Picture]

    def __len__(self) -> int:
        return len(self.known)

    def parts(self) -> "Iterator[Pictures]":
        """The same, TOGETHER at a time."""
        for first in range(0, len(self), TOGETHER):
            places = range(first, min(first + TOGETHER, len(self)))
            yield Pictures(self.source.take(places), self.known[first : places.stop])


def find(
    paths: Sequence[str], classes: list[str]
) -> tuple[list[Pictures], list[Skipped], list[str]]:
    """The files that `paths` mean, paths that mean none, and remarks for the user."""
    found: list[Pictures] = []
    skipped: list[Skipped] = []
    remarks: list[str] = []
    labels = {same(name): label for label, name in enumerate(classes)}
    for path in paths:
        try:
            source, more = any_files(Path(path))
        except (OSError, ValueError) as error:
            skipped.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if not len(source):
            skipped.append((path, "it holds no file"))
        known = [_picture(source, index, labels) for index in range(len(source))]
        found.append(Pictures(source, known))
        remarks += more
    return list(_merged(found)), skipped, remarks


def _picture(source: Source, index: int, labels: dict[str, int]) -> Picture:
    """The label is known if its folders, or its archive, have the name of one class."""
    folders = os.path.dirname(source.inside + source.names[index]).split("/")
    if source.places is None:
        folders.append(os.path.basename(source.root.absolute()))
    else:
        folders.append(Path(source.places[index].archive).stem)
    named = {labels[same(folder)] for folder in folders if same(folder) in labels}
    label = named.pop() if len(named) == 1 else None
    return Picture(str(source.root / source.listed_name(index)), label)


def _merged(found: list[Pictures]) -> Iterator[Pictures]:
    """Files of folders in one list: a thousand names are read as one folder is."""
    for in_archives, group in groupby(found, lambda one: one.source.places is not None):
        if in_archives:
            yield from group
            continue
        parts = list(group)
        names = [
            os.path.join(one.source.root.absolute(), name).lstrip("/")
            for one in parts
            for name in one.source.names
        ]
        known = [picture for one in parts for picture in one.known]
        yield Pictures(Source.of(Path("/"), names, [0] * len(names)), known)


class Opened(NamedTuple):
    """Lists for a Loader, whose labels are places among the pictures; and why others are in none.

    One list is of files that are read where they lie, the other of converted ones.
    """

    lists: list[ImageList]
    odd: dict[int, str]


def open_pictures(source: Source, resize: int, pool: Workers, folder: Path) -> Opened:
    """Decode every file once; those that have to be converted are written into `folder`."""
    lists, sound = [], np.empty(0, np.int64)
    if not source.must_be_stored():
        found, _ = _examine(pool, source, np.arange(len(source)), None)
        sound = np.flatnonzero(found.usable())
        lists.append(_in_place(source.take(sound), sound, found.rows[sound]))
    rest = np.setdiff1d(np.arange(len(source)), sound)
    found, images = _examine(pool, source, rest, StoreFormat(resize, QUALITY, shards=False))
    odd = {int(rest[place]): reason for place, reason in found.reasons().items()}
    converted, rows = rest[found.usable()], found.rows[found.usable()]
    names = [f"{place}.jpg" for place in converted]
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(image)
    lists.append(ImageList.of(str(folder), names, converted, rows["size"], None, rows["length"]))
    return Opened([some for some in lists if len(some)], odd)


def _examine(
    pool: Workers, source: Source, order: NDArray[np.int64], store: StoreFormat | None
) -> tuple[Findings, list[bytes]]:
    """What was found of the files, and the images to store of those that can be used."""
    found, stored = Findings.none(0), []
    for examined in pool.results(tasks(source, order, store=store)):
        found = found.followed_by(examined.found)
        stored += examined.stored
    return found, stored


def _in_place(files: Source, labels: NDArray[np.int64], rows: NDArray[np.void]) -> ImageList:
    names = map(files.listed_name, range(len(files)))
    spans = None if files.places is None else files.places.spans()
    lengths = rows["length"] if spans is None else None
    return ImageList.of(str(files.root), names, labels, rows["size"], spans, lengths)
