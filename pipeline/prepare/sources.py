"""Images and their labels, from whatever holds them; docs/prepare.md lists the forms."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.decode import look
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.tree import (
    ARCHIVES,
    Tree,
    check_not_parts,
    class_tree,
    open_tree,
)
from alexnet_dali.pipeline.prepare.columns import Indices, Names, Places
from alexnet_dali.pipeline.prepare.hubs import hub, webdataset
from alexnet_dali.pipeline.prepare.labelled import Labelled
from alexnet_dali.pipeline.prepare.labels.files import is_image_name
from alexnet_dali.pipeline.prepare.labels.label_file import UNLABELLED, read_labels
from alexnet_dali.pipeline.prepare.names import is_text, same, seen_as, some
from alexnet_dali.pipeline.prepare.store import stored_name
from alexnet_dali.pipeline.reading.archives import read

CONTAINERS = (*ARCHIVES, ".parquet")
"""How the names of files end that hold other files."""

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_SPLIT = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[-_ ]?(?:set|images|\d+))?")

_PICTURES = {"images", "imgs", "jpegimages"}
_BESIDE_PICTURES = {"annotations", "labels", "masks", "segmentationclass", "trimaps", "xmls"}


@dataclass(frozen=True)
class Source:
    """Files to examine: `names` as in a folder, and `labels`, indices of classes.

    Names are sorted within each class. The files are in `root`, or in archives there: then they
    have `places`, and `inside` is the folder of the archives that the names are relative to.
    `marked` [n] are those that others would be stored as, too: see distinct.
    `targets` are those of image_list.ImageList.
    """

    root: Path
    names: Names
    labels: NDArray[np.int64]
    places: Places | None = None
    inside: str = ""
    marked: NDArray[np.bool_] | None = None
    targets: NDArray[np.bool_ | np.float32] | None = None

    @classmethod
    def of(
        cls,
        root: Path,
        names: Iterable[str],
        labels: Sequence[int] | NDArray[np.int64],
        places: Iterable[ArchiveMember] | None = None,
        inside: str = "",
    ) -> "Source":
        """From an entry for each file."""
        columns = None if places is None else Places.of(places)
        return cls(root, Names.of(names), np.asarray(labels, np.int64), columns, inside)

    def __len__(self) -> int:
        return len(self.labels)

    def listed_name(self, index: int) -> str:
        """The file's name relative to `root`, with that of its archive before it."""
        if self.places is None:
            return self.names[index]
        return f"{self.places[index].archive}/{self.inside}{self.names[index]}"

    def stored_name(self, index: int) -> str:
        """The name of the file's copy in a store."""
        return stored_name(self.names[index], self.marked is not None and bool(self.marked[index]))

    def distinct(self) -> "Source":
        """The same files, each stored under another name, also where case does not count.

        DatasetError where that can't be.
        """
        source = replace(self, marked=np.zeros(len(self), bool))
        for _ in range(3):  # a mark may meet another name
            met = source._meet()
            if not len(met):
                return source
            assert source.marked is not None
            source.marked[met] = True
        raise DatasetError(
            f"{self.root}: two files would be stored as {source.stored_name(int(met[0]))}; rename "
            "one of them"
        )

    def _meet(self) -> NDArray[np.int64]:
        """The files that would be stored under another's name."""
        names = map(self.stored_name, range(len(self)))
        hashes = np.fromiter((hash(_folded(name)) for name in names), np.int64, len(self))
        ordered = np.sort(hashes)
        suspects = np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))
        folded = [_folded(self.stored_name(index)) for index in suspects.tolist()]
        count = Counter(folded)
        return suspects[[count[name] > 1 for name in folded]]

    def content(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError or ValueError where it can't be read."""
        if self.places is None:
            return read(os.path.join(self.root, self.names[index]))
        return self.places[index].content(self.root)

    def stamp(self, index: int) -> tuple[int, int]:
        """Size and time of change of a file of its own; -1 for others, and where it is gone."""
        if self.places is not None:
            return -1, -1
        try:
            about = os.stat(os.path.join(self.root, self.names[index]))
        except OSError:
            return -1, -1
        return about.st_size, about.st_mtime_ns

    def take(self, indices: Indices) -> "Source":
        """Some of the files."""
        return replace(
            self,
            names=self.names.take(indices),
            labels=self.labels[np.asarray(indices, np.int64)],
            places=None if self.places is None else self.places.take(indices),
            marked=None if self.marked is None else self.marked[np.asarray(indices, np.int64)],
            targets=None if self.targets is None else self.targets[np.asarray(indices, np.int64)],
        )

    def reading_order(self) -> NDArray[np.int64]:
        """The files' indices in the order in which they lie in their archives, if they do.

        Shuffled shards and parquet files would otherwise be read all over.
        """
        return np.arange(len(self)) if self.places is None else self.places.reading_order()

    def must_be_stored(self) -> bool:
        """Whether training can't read the files where they are, as their archive packs them."""
        return self.places is not None and self.places.must_be_unpacked()

    def parts(self) -> Iterator[NDArray | list[str]]:
        """Lists and arrays that are equal for the same files with the same labels."""
        yield [str(self.root), self.inside]
        yield from (*self.names.parts(), self.labels)
        if self.places is not None:
            yield from (self.places.archives, self.places.rows)
        if self.targets is not None:
            yield self.targets


class Found(NamedTuple):
    """Training files, the classes, people's names of them if known, and remarks for the user."""

    source: Source
    classes: list[str]
    names: list[str] | None
    remarks: list[str]


def training_files(path: Path) -> Found:
    """The files below `path` with the classes that they define.

    DatasetError where they can't be found out, or a class has no file.
    """
    found = _open(path)
    if isinstance(found, Labelled):
        classes = found.classes()
        remarks = [found.remark(), *found.remarks]
        return Found(_in_order(found, classes), classes, found.class_names, remarks)
    tree = _images_in_folders(found)
    classes = _class_names(tree)
    return Found(_label_by_folder(tree, classes), classes, None, _remarks(tree))


def validation_files(
    path: Path, label_file: Path | None, classes: list[str], names: list[str] | None = None
) -> tuple[Source, list[str]]:
    """The files below `path` with labels among `classes`, and remarks for the user.

    `names` are those of Found, which the files' own must equal, if they have any. Labels come from
    `label_file` where there is one (see label_file), else as in training.
    """
    if label_file is not None:
        return _label_by_file(open_tree(path), label_file, classes)
    found = _open(path)
    if isinstance(found, Labelled):
        if None not in (names, found.class_names) and names != found.class_names:
            raise DatasetError(
                f"{path}: its schema names other classes than that of the training files, or in "
                f"another order ({some(found.class_names or [])}; there {some(names or [])})"
            )
        return _in_order(found, classes), [found.remark(), *found.remarks]
    tree = _images_in_folders(found)
    return _label_by_folder(tree, classes), _remarks(tree)


def any_files(path: Path) -> tuple[Source, list[str]]:
    """The files below `path`, without labels, or the one file that it is; and remarks for the user.

    DatasetError or ValueError where they can't be found.
    """
    if path.is_file() and path.suffix.lower() not in CONTAINERS:
        return Source.of(path.parent, [path.name], [0]), []
    tables, _ = hub.tables(path)
    if tables:
        found = _open(path)
        assert isinstance(found, Labelled)
        labels = np.zeros(len(found.names), np.int64)
        return Source.of(found.root, found.names, labels, found.places), found.remarks
    tree = open_tree(path)
    images = {os.path.splitext(name)[0] for name in tree.names if not is_text(name)}
    tree = _without(tree, lambda name: is_text(name) and os.path.splitext(name)[0] in images)
    return _unlabelled(tree), tree.remarks()


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Split into training and validation, class by class.

    At least one image of each class goes to either side.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    labels = source.labels
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DatasetError(
                f"{source.root}: the class of {source.names[members[0]]!r} has this one image; "
                "expected two or more, as --hold-out takes one for validation (or give --val)"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return source.take(np.flatnonzero(~held)), source.take(np.flatnonzero(held))


def _open(path: Path) -> Tree | Labelled:
    """What is at `path`: files that bring their labels, or files in folders."""
    tables, skipped = hub.tables(path)
    if tables:
        return hub.labelled(path, tables, skipped)
    tree = open_tree(path)
    return webdataset.labelled(tree) or tree


def _in_order(found: Labelled, classes: list[str]) -> Source:
    """The files by class, and within a class as in a folder, whatever archive holds them."""
    labels = found.indices(classes)
    order = sorted(
        range(len(labels)), key=lambda i: (labels[i], found.own_names[i], found.names[i])
    )
    return Source.of(found.root, found.names, labels, found.places).take(order)


def _images_in_folders(found: Tree) -> Tree:
    """The tree of the class folders, without files beside them, and those that are no images."""
    tree = class_tree(found)
    beside = [name for name in tree.names if "/" not in name]
    inside = tree.take([i for i, name in enumerate(tree.names) if "/" in name])
    return _without(replace(inside, beside=[*tree.beside, *beside]), is_text)


def _without(tree: Tree, is_no_image: Callable[[str], bool]) -> Tree:
    """The tree without some of its files, by their names."""
    taken = [i for i, name in enumerate(tree.names) if not is_no_image(name)]
    return replace(tree.take(taken), texts=[name for name in tree.names if is_no_image(name)])


def _class_names(tree: Tree) -> list[str]:
    """The class folders, in the order that numbers them (sorted, as ImageNet's synsets are)."""
    classes = tree.top_folders()
    if not classes:
        raise DatasetError(
            f"{tree.path}: expected a folder of images for each class, found no folder at all (a "
            "flat folder of validation images takes its labels from --val-labels)"
        )
    splits = [name for name in classes if name.casefold() in _SPLITS]
    parts = {match[1]: name for name in classes if (match := _SPLIT.fullmatch(name.casefold()))}
    if len(splits) == len(classes) or len(parts) > 1:
        part = parts.get("train", classes[0])
        raise DatasetError(
            f"{tree.path}: found {some(classes)}; {some(sorted(parts.values()))} are parts of a "
            "data set, which are no classes; expected a folder of class folders, such as "
            f"{tree.within(part)}"
        )
    _check_hold_images(tree, classes)
    check_not_parts(tree)
    if len(classes) == 1:
        raise DatasetError(
            f"{tree.path}: found one class folder only ({classes[0]}); a classifier needs two or "
            "more"
        )
    broken = [name for name in classes if "\n" in name]
    if broken:
        raise DatasetError(
            f"{tree.path}: class folder {broken[0]!r} has a line break in its name; rename it"
        )
    _check_classes_differ(tree, classes)
    filled = {name.split("/")[0] for name in tree.names}
    empty = [name for name in classes if name not in filled]
    if empty:
        raise DatasetError(
            f"{tree.path}: {len(empty)} class folders hold no file: {some(empty)}; add images, or "
            "remove them"
        )
    return classes


def _check_hold_images(tree: Tree, classes: list[str]) -> None:
    others = [name for name in classes if name.casefold() in _BESIDE_PICTURES]
    if others and any(name.casefold() in _PICTURES for name in classes):
        raise DatasetError(
            f"{tree.path}: found {some(classes)}; {some(others)} go with the images, and are no "
            "classes; expected a folder of images for each class"
        )


def _check_classes_differ(tree: Tree, classes: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if seen.setdefault(seen_as(name), name) != name:
            raise DatasetError(
                f"{tree.path}: two class folders look the same, {name!r}: they differ in blanks or "
                "in how accents are written (Unicode NFC and NFD); move their files into one"
            )


def _label_by_folder(tree: Tree, classes: list[str]) -> Source:
    """Each file labelled by its class folder; a folder that is not one of `classes` is an error."""
    check_not_parts(tree)
    index = {same(name): label for label, name in enumerate(classes)}
    unknown = [name for name in tree.top_folders() if same(name) not in index]
    if unknown:
        raise DatasetError(
            f"{tree.path}: class folders {some(unknown)} are not among the {len(classes)} training "
            f"classes ({some(classes)}){_case_differs(unknown, classes)}"
        )
    if not tree.names:
        raise DatasetError(
            f"{tree.path}: found no class folder with files in it; a flat folder of images takes "
            "its labels from --val-labels, or --test-labels"
        )
    labels = np.array([index[same(name.split("/")[0])] for name in tree.names])
    source = replace(_unlabelled(tree), labels=labels)
    # Within a class, names keep their order.
    return source.take(np.argsort(labels, kind="stable"))


def _unlabelled(tree: Tree) -> Source:
    """All files, with label 0."""
    labels = np.zeros(len(tree.names), np.int64)
    return Source.of(tree.root, tree.names, labels, tree.places, tree.inside)


def _folded(name: str) -> str:
    return same(name).casefold()


def _case_differs(unknown: list[str], classes: list[str]) -> str:
    by_case = {name.casefold(): name for name in classes}
    near = [name for name in unknown if name.casefold() in by_case]
    return f"; {near[0]} and {by_case[near[0].casefold()]} differ in case only" if near else ""


def _label_by_file(tree: Tree, path: Path, classes: list[str]) -> tuple[Source, list[str]]:
    """Each file labelled by the label file at `path`, which may lie among the files."""
    source = _unlabelled(tree)
    own = os.path.abspath(path)
    taken = [
        i
        for i in range(len(tree.names))
        if os.path.abspath(tree.root / source.listed_name(i)) != own
    ]
    if not taken:
        raise DatasetError(f"{tree.path}: expected images, found no file")
    found = source.take(taken)
    labels, remarks = read_labels(
        path, tree.path, list(found.names), classes, lambda index: is_image(found, index)
    )
    indices = np.array(labels)
    labelled = np.flatnonzero(indices != UNLABELLED)
    return replace(found.take(labelled), labels=indices[labelled]), tree.remarks() + remarks


def is_image(source: Source, index: int) -> bool:
    """By its name's end, or else by its header."""
    if is_image_name(source.names[index]):
        return True
    try:
        look(source.content(index))
    except (OSError, ValueError, MemoryError):
        return False
    return True


def _remarks(tree: Tree) -> list[str]:
    """What a user should know of how files in class folders were found, a line each."""
    lines = tree.remarks()
    archives = tree.archives()
    if len(archives) > 1 and len(archives) == len(tree.top_folders()):
        lines.append(
            f"{tree.path}: each of the {len(archives)} archives is a class "
            f"({some(tree.top_folders())})"
        )
    return lines
