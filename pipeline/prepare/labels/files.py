"""Which file a label file speaks of, by any name that it may be called."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_dali.pipeline.decode import formats_by_suffix
from alexnet_dali.pipeline.prepare.names import same

AMBIGUOUS = -1
"""In place of an index, where a name could be several files'."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Match(NamedTuple):
    """A file's index; whether the name has its suffix; how many folders before it agree."""

    index: int
    exact: bool
    folders: int


class Files:
    """Finds files by their names: relative to `folder`, or with fewer or more folders before them.

    Folders that both tell must agree, where they are in `folder`; above it, a folder of another
    split (train for val) is not the same file. The suffix may lack, or be another image's.
    `num_images` is how many there are at least.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folders = [same(part) for part in folder.parts]
        self._paths = [PurePosixPath(same(name)) for name in names]
        self.num_images = max(1, sum(map(is_image_name, names)))
        self._exact, self._stems = _Ends(), _Ends()
        for index, path in enumerate(self._paths):
            self._exact.add(path.parts, index)
            self._stems.add((*path.parts[:-1], _stem(path.name)), index)

    def find(self, name: str) -> Match | None:
        """The file of that name, if there is one; its index is AMBIGUOUS if there are several."""
        parts = [part for part in same(name).replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return None
        exact = True
        found = self._exact.find(parts)
        if found is None:
            exact = False
            found = self._stems.find([*parts[:-1], _stem(parts[-1])]) or self._stems.find(parts)
        if found is None:
            return None
        index, used = found
        if len(parts) == 1 or index == AMBIGUOUS:
            return Match(index, exact, 0)
        before = [*self._folders, *self._paths[index].parts[:-1]]
        if used < len(parts) and _of_another_split(parts[: len(parts) - used], self._folders):
            return None
        return Match(index, exact, _common_end(parts[:-1], before))


class _Ends:
    """Indices by whole paths, and by what they end with."""

    def __init__(self) -> None:
        self._whole: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def add(self, parts: tuple[str, ...], index: int) -> None:
        for first in range(len(parts)):
            known = self._ends if first else self._whole
            if known.setdefault(key := "/".join(parts[first:]), index) != index:
                known[key] = AMBIGUOUS

    def find(self, parts: list[str]) -> tuple[int, int] | None:
        """The index, and how many of the last parts are the file's own path."""
        key = "/".join(parts)
        if (index := self._whole.get(key, self._ends.get(key))) is not None:
            return index, len(parts)
        for first in range(1, len(parts)):
            if (index := self._whole.get("/".join(parts[first:]))) is not None:
                return index, len(parts) - first
        return None


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return PurePosixPath(name).suffix.lower() in formats_by_suffix()


def _stem(name: str) -> str:
    return PurePosixPath(name).stem if is_image_name(name) else name


def _of_another_split(named: list[str], folders: list[str]) -> bool:
    """Whether folders of a list and of the disk, the last of each, are of different splits."""
    there = [_SPLITS[part.lower()] for part in folders[-2:] if part.lower() in _SPLITS]
    told = [_SPLITS[part.lower()] for part in named if part.lower() in _SPLITS]
    return bool(there and told) and there[-1] != told[-1]


def _common_end(parts: list[str], others: list[str]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(reversed(parts), reversed(others))) if a != b),
        min(len(parts), len(others)),
    )
