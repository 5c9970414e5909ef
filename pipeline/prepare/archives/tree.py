"""What lies below a path, be it a folder, an archive, or a folder of archives: the same for all."""

import glob
import os
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from alexnet_dali.pipeline.dataset import DatasetError
from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.tar import tar_entries
from alexnet_dali.pipeline.prepare.archives.zips import zip_entries
from alexnet_dali.pipeline.prepare.names import is_skipped, some

ARCHIVES = (".tar", ".zip")
"""How the names of archives end."""


@dataclass(frozen=True)
class Tree:
    """The files below a path, in sorted order, with `names` as a folder would have them.

    `places` says where in their archives they are, which lie in `root`; None for files of their
    own. `inside` is the folder of the archives that the names are relative to. `folders` are all
    folders, empty ones included, and `skipped` is what is not taken: see is_skipped.
    """

    path: Path
    root: Path
    names: list[str]
    places: list[ArchiveMember] | None
    folders: list[str]
    inside: str = ""
    skipped: list[str] = field(default_factory=list)

    def top_folders(self) -> list[str]:
        """The folders at the top, sorted."""
        return sorted({name.split("/")[0] for name in self.folders})

    def remarks(self) -> list[str]:
        """What a user should know of how the files were found, a line each."""
        lines = []
        if self.skipped:
            lines.append(
                f"{self.path}: skipped what systems leave behind: {some(self.skipped)} "
                f"({len(self.skipped)} in all)"
            )
        return lines


def open_tree(path: Path) -> Tree:
    """The files below `path`: a folder, a .tar or .zip archive, a pattern such as 'train-*.tar'.

    A path may lead into an archive (images.zip/val), and a folder of archives only stands for the
    folders that they would unpack to. DatasetError where there is no such thing, or it can't be
    read as it is.
    """
    if path.is_dir():
        archives = _archives_in(path)
        return _of_archives(path, archives, "") if archives else _of_folder(path)
    archives, inside = locate(path)
    return _of_archives(path, archives, inside)


def locate(path: Path) -> tuple[list[Path], str]:
    """The files that `path` means, and the folder in them that it leads to, with a slash behind."""
    for parent in (path, *path.parents):
        if parent.is_file():
            inside = "" if parent == path else f"{path.relative_to(parent).as_posix()}/"
            return [parent], inside
    found = matching(path)
    if not found:
        raise DatasetError(f"{path}: no such folder, archive or file")
    return found, ""


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
    """The tree of the one folder on top, if it holds nothing but folders; else the tree itself.

    So a folder `train` around the class folders does no harm.
    """
    while len(top := tree.top_folders()) == 1 and _holds_only_folders(tree, top[0]):
        folder = top[0] + "/"
        in_archive = tree.places is not None
        tree = replace(
            tree,
            root=tree.root if in_archive else tree.root / folder,
            names=[name.removeprefix(folder) for name in tree.names],
            folders=[name.removeprefix(folder) for name in tree.folders if name != top[0]],
            inside=tree.inside + folder if in_archive else "",
        )
    return tree


def _holds_only_folders(tree: Tree, folder: str) -> bool:
    return len(tree.folders) > 1 and all(
        name.startswith(f"{folder}/") and name.count("/") > 1 for name in tree.names
    )


def _archives_in(folder: Path) -> list[Path]:
    """The archives in a folder that holds archives and nothing else."""
    entries = [entry for entry in os.scandir(folder) if not is_skipped(entry.name)]
    if entries and all(entry.name.lower().endswith(ARCHIVES) for entry in entries):
        return sorted(Path(entry.path) for entry in entries)
    return []


def _of_archives(path: Path, archives: list[Path], inside: str) -> Tree:
    """Several archives stand for a folder each, of their stem; one stands for itself."""
    found: dict[str, ArchiveMember] = {}
    folders: set[str] = set()
    skipped: set[str] = set()
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
                found[name] = place
            elif name:
                folders.add(name)
    if inside and not found:
        raise DatasetError(f"{path}: {archives[0]} holds no file below {inside}")
    names = sorted(found)
    for folder in {name.rpartition("/")[0] for name in names if "/" in name}:
        lowest = PurePosixPath(folder)
        folders.update(parent.as_posix() for parent in (lowest, *lowest.parents[:-1]))
    if len(archives) > 1:
        _check_not_parts(path, archives, folders)
    root = path if path.is_dir() else archives[0].parent
    places = [found[name] for name in names]
    return Tree(path, root, names, places, sorted(folders), inside, sorted(skipped))


def _check_not_parts(path: Path, archives: list[Path], folders: set[str]) -> None:
    """DatasetError where archives hold the same folders: they are parts of one tree, no classes."""
    inner = [
        {name.split("/")[1] for name in folders if name.startswith(f"{archive.stem}/")}
        for archive in archives
    ]
    shared = sorted(set.intersection(*inner))
    if len(shared) > 1:
        raise DatasetError(
            f"{path}: the archives hold the same folders ({some(shared)}), so they are parts of "
            "one data set and not a class each; unpack them into one folder"
        )


def _entries(archive: Path) -> Iterable[tuple[str, ArchiveMember | None]]:
    """Files and folders of a tar or zip archive, told apart by what is in it."""
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    is_zip = is_zip or (zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive))
    return zip_entries(archive) if is_zip else tar_entries(archive)


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
