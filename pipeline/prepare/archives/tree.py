"""What lies below a path, be it a folder, an archive, or a folder of archives: the same for all."""

import glob
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives import unread
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.tar import is_tar, tar_entries
from alexnet_dali.pipeline.prepare.archives.zips import zip_entries
from alexnet_dali.pipeline.prepare.names import (
    image_suffixes,
    is_skipped,
    only_archives,
    some,
    suffix,
)
from alexnet_dali.pipeline.reading.archives import read
from alexnet_dali.pipeline.system import addresses

ARCHIVES = (".tar", ".zip")
"""How the names of archives end."""

_ZIP = (b"PK\3\4", b"PK\5\6")


@dataclass(frozen=True)
class Tree:
    """The files below a path, in sorted order, with `names` as a folder would have them.

    `places` says where in their archives they are, which lie in `root`; None for files of their
    own. `inside` is the folder of the archives that the names are relative to. `folders` are all
    folders, empty ones included. `skipped` is what is not taken: see is_skipped; nor is what lies
    `beside` the folders or archives that the names are from, nor are `texts` in those. `again` are
    names that come twice.
    """

    path: Path
    root: Path
    names: list[str]
    places: list[ArchiveMember] | None
    folders: list[str]
    inside: str = ""
    skipped: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def content(self, index: int) -> NDArray[np.uint8]:
        """The bytes of a file; OSError or ValueError where they can't be read."""
        if self.places is None:
            return read(os.path.join(self.root, self.names[index]))
        return self.places[index].content(self.root)

    def take(self, indices: list[int]) -> "Tree":
        """The tree with some of the files."""
        names = [self.names[i] for i in indices]
        places = None if self.places is None else [self.places[i] for i in indices]
        return replace(self, names=names, places=places)

    def own_name(self, index: int) -> str:
        """A file's name in its own archive, without that of the archive before it."""
        if self.places is None:
            return self.names[index]
        return self.names[index].removeprefix(f"{Path(self.places[index].archive).stem}/")

    def archives(self) -> list[str]:
        """The archives that hold files, by name."""
        return sorted({place.archive for place in self.places or ()})

    def within(self, folder: str) -> str:
        """A folder at the top, by the path that leads to it."""
        if self.places is None:
            return f"{self.root}/{folder}"
        archives = self.archives()
        if self.path.is_dir() or len(archives) > 1:
            own = [archive for archive in archives if Path(archive).stem == folder]
            return f"{self.root}/{own[0] if own else folder}"
        return f"{self.root}/{archives[0]}/{self.inside}{folder}"

    def top_folders(self) -> list[str]:
        """The folders at the top, sorted."""
        return sorted({name.split("/")[0] for name in self.folders})

    def remarks(self) -> list[str]:
        """What a user should know of how the files were found, a line each."""
        found = {
            "skipped what systems leave behind": self.skipped,
            "skipped what lies beside the class folders": self.beside,
            "skipped files that are no images": self.texts,
            "the last counts of files whose names come twice": self.again,
        }
        return [
            f"{self.path}: {what}: {some(names)} ({len(names)} in all)"
            for what, names in found.items()
            if names
        ]


def open_tree(path: Path) -> Tree:
    """The files below `path`: a folder, a .tar or .zip archive, a pattern such as 'train-*.tar'.

    A path may lead into an archive (images.zip/val), and a folder of archives only stands for the
    folders that they would unpack to. DatasetError where there is no such thing, or it can't be
    read as it is.
    """
    if not path.is_dir():
        tree = _of_archives(path, *locate(path))
    elif all((path / name).is_file() for name in ("dataset.yaml", "stats.npz")):
        raise DatasetError(f"{path} is a prepared folder already: train with --data.root {path}")
    else:
        archives, beside = _archives_in(path)
        tree = _of_archives(path, archives, "") if archives else _of_folder(path)
        tree = replace(tree, beside=beside)
    unread.check_names(path, tree.names)
    return tree


def locate(path: Path) -> tuple[list[Path], str]:
    """The files that `path` means, and the folder in them that it leads to, with a slash behind."""
    for parent in (path, *path.parents):
        if parent.is_file():
            inside = "" if parent == path else f"{path.relative_to(parent).as_posix()}/"
            return [parent], inside
    found = matching(path)
    if found:
        return found, ""
    address = addresses.what_to_do(path)
    if not address:
        unread.check_missing(path)
    raise DatasetError(address or f"{path}: no such folder, archive or file")


def matching(path: Path) -> list[Path]:
    """The files that `path` means, which may be a pattern, sorted; all of them in one folder."""
    found = sorted(Path(name) for name in glob.glob(str(path)))
    if any(file.is_dir() for file in found) or len({file.parent for file in found}) > 1:
        raise DatasetError(
            f"{path}: the pattern means folders, or files of several folders, such as {found[0]} "
            f"and {found[-1]}; expected files in one folder"
        )
    return found


def class_tree(tree: Tree) -> Tree:
    """The tree whose top folders are classes: see step_inside.

    DatasetError where a link at its top leads nowhere: a class may not be lost without a word.
    """
    tree = step_inside(tree)
    for name in tree.names if tree.places is None else ():
        path = tree.root / name
        if "/" not in name and path.is_symlink() and not os.path.exists(path):
            raise DatasetError(
                f"{tree.root}: {name} is a link to {os.readlink(path)}, which is not there; mend "
                "the link, or remove it"
            )
    return tree


def step_inside(tree: Tree) -> Tree:
    """The tree of the one folder on top, if it holds folders; else the tree itself.

    So a folder `train` around the class folders does no harm, nor does a file beside it or in it
    that is no image.
    """
    while len(top := tree.top_folders()) == 1 and _is_around_folders(tree, top[0]):
        folder = top[0] + "/"
        in_archive = tree.places is not None
        inside = [i for i, name in enumerate(tree.names) if name.startswith(folder)]
        tree = replace(
            tree.take(inside),
            root=tree.root if in_archive else tree.root / folder,
            names=[tree.names[i].removeprefix(folder) for i in inside],
            folders=[name.removeprefix(folder) for name in tree.folders if name != top[0]],
            inside=tree.inside + folder if in_archive else "",
            beside=tree.beside + [name for name in tree.names if not name.startswith(folder)],
        )
    return tree


def check_not_parts(tree: Tree) -> None:
    """DatasetError where archives hold the same folders: they are parts of one tree, no classes."""
    archives = tree.archives()
    if len(archives) < 2:
        return
    inner: dict[str, set[str]] = {Path(archive).stem: set() for archive in archives}
    for name in tree.folders:
        archive, _, rest = name.partition("/")
        if rest:
            inner[archive].add(rest.split("/")[0])
    shared = sorted(set.intersection(*inner.values()))
    if len(shared) > 1:
        raise DatasetError(
            f"{tree.path}: the archives hold the same folders ({some(shared)}), so they are parts "
            "of one data set and not a class each; unpack them into one folder"
        )


def _is_around_folders(tree: Tree, folder: str) -> bool:
    """Whether a folder holds others, and no image lies beside it or beside them."""
    return len(tree.folders) > 1 and all(
        name.count("/") > 1 or suffix(name) not in image_suffixes() for name in tree.names
    )


def _archives_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The archives in a folder that stands for them, if it does, and what lies beside them."""
    entries = [entry for entry in os.scandir(folder) if not is_skipped(entry.name)]
    names = sorted(entry.name for entry in entries)
    if any(entry.is_dir() for entry in entries) or not only_archives(names, ARCHIVES):
        return [], []
    beside = [name for name in names if not name.lower().endswith(ARCHIVES)]
    unread.check_beside(folder, beside)
    return [folder / name for name in names if name not in beside], beside


def _of_archives(path: Path, archives: list[Path], inside: str) -> Tree:
    """Several archives stand for a folder each, of their stem; one stands for itself."""
    found: dict[str, ArchiveMember] = {}
    folders: set[str] = set()
    skipped: set[str] = set()
    again: list[str] = []
    are_folders = path.is_dir() or len(archives) > 1
    for archive in archives:
        prefix = f"{archive.stem}/" if are_folders else ""
        if are_folders:
            folders.add(archive.stem)
        for name, place in _entries(archive):
            if inside and not name.startswith(inside):
                continue
            name = prefix + name.removeprefix(inside)
            if is_skipped(name):
                skipped.add(_top_of_what_is_skipped(name))
            elif place is not None:
                again += [name] * (name in found)
                found[name] = place
            elif name:
                folders.add(name)
    if inside and not found:
        raise DatasetError(f"{path}: {archives[0]} holds no file below {inside}")
    names = sorted(found)
    for folder in {name.rpartition("/")[0] for name in names if "/" in name}:
        lowest = PurePosixPath(folder)
        folders.update(parent.as_posix() for parent in (lowest, *lowest.parents[:-1]))
    root = path if path.is_dir() else archives[0].parent
    places = [found[name] for name in names]
    return Tree(
        path,
        root,
        names,
        places,
        sorted(folders),
        inside,
        sorted(skipped),
        again=sorted(set(again)),
    )


def _entries(archive: Path) -> Iterable[tuple[str, ArchiveMember | None]]:
    """Files and folders of a tar or zip archive, told apart by what is in it."""
    with open(archive, "rb") as file:
        start = file.read(512)
    if is_tar(start):
        return tar_entries(archive)
    if start.startswith(_ZIP) or zipfile.is_zipfile(archive):
        return zip_entries(archive)
    unread.check_file(archive)
    if archive.suffix.lower() == ".zip":  # Python 3.14 has last parts of split ones for none
        return zip_entries(archive)
    return tar_entries(archive)


def _of_folder(root: Path) -> Tree:
    names: list[str] = []
    folders: list[str] = []
    skipped: list[str] = []
    whole = os.path.realpath(root)
    waiting, seen = [""], set()
    while waiting:
        folder = waiting.pop()
        for entry in os.scandir(root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if is_skipped(entry.name):
                skipped.append(name)
            # Unlike entry.is_dir(), no error for a link that leads nowhere or in a circle
            elif not os.path.isdir(entry.path):
                names.append(name)
            # Links to folders are followed, but into none twice for one class.
            elif (real := (name.split("/")[0], os.path.realpath(entry.path))) not in seen:
                seen |= {real, (real[0], whole)}
                folders.append(name)
                waiting.append(name)
    return Tree(root, root, sorted(names), None, sorted(folders), skipped=sorted(skipped))


def _top_of_what_is_skipped(name: str) -> str:
    parts = name.split("/")
    first = next(i for i, part in enumerate(parts) if is_skipped(part))
    return "/".join(parts[: first + 1])
