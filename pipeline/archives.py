"""Images inside tar archives, read in place; nothing is ever unpacked."""

import mmap
import os
import resource
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LONGEST_END = 1 << 20
"""Zeros behind the last file of an archive: two blocks, and what fills up its last record."""


class Member(NamedTuple):
    """A file inside a tar archive, and the bytes of the archive that hold it."""

    name: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """Every file in the archive.

    Files of an archive inside it get that archive's stem as their folder (ImageNet's training set).
    If a name occurs twice, its last file counts, as when one unpacks. ValueError where it is no tar
    file, is not whole, is compressed, or holds what can't be read in place: symbolic links, or
    names that lead out of it.
    """
    found: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry, member in _files(archive, "", 0, os.path.getsize(path)):
                if not entry.name.endswith(".tar"):
                    found[member.name] = member
                    continue
                with tarfile.open(fileobj=archive.extractfile(entry), mode="r:") as inner:
                    folder = member.name.removesuffix(".tar") + "/"
                    for _, file in _files(inner, folder, member.offset, member.size):
                        found[file.name] = file
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a tar archive that is whole and not compressed ({error})"
        ) from error
    return list(found.values())


def _files(
    archive: tarfile.TarFile, folder: str, start: int, size: int
) -> Iterator[tuple[tarfile.TarInfo, Member]]:
    """The files of an archive that takes `size` bytes from `start` on.

    ValueError unless all of it is there.
    """
    places: dict[str, Member] = {}
    for entry in archive:
        name = entry.name.removeprefix("./")
        if entry.issym():
            raise ValueError(f"{name} is a symbolic link; make the archive with tar --dereference")
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name} leads out of the archive")
        if entry.islnk():
            # Another name for an earlier file.
            target = places.get(entry.linkname.removeprefix("./"))
            if target is None:
                raise ValueError(
                    f"{name} is a link to {entry.linkname}, which does not come before it"
                )
            place = target._replace(name=folder + name)
        elif entry.isfile():
            place = Member(folder + name, start + entry.offset_data, entry.size)
        else:
            continue
        places[name] = place
        yield entry, place
    # tarfile stops without an error at anything that is no header. Only zeros may follow the last
    # file.
    archive.fileobj.seek(archive.offset)
    end = archive.fileobj.read(_LONGEST_END + 1)
    if not 0 < len(end) <= _LONGEST_END or len(end) != size - archive.offset or any(end):
        raise ValueError(f"{folder or 'it'} is damaged or cut short behind {len(places)} files")


def read(path: str, offset: int = 0, size: int = -1) -> NDArray[np.uint8]:
    """`size` bytes of a file from `offset` on; by default, all that follow.

    OSError or ValueError where there are none.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    data = np.empty(max(0, about.st_size - offset if size < 0 else size), np.uint8)
    with open(path, "rb") as file:
        file.seek(offset)
        # numpy's own way of reading takes errors of the disk for the end of the file.
        count = file.readinto(data.data)
    if not count:
        raise ValueError("the file is empty")
    return data[:count]


class Archives:
    """Reads ranges of bytes from archives; each is mapped into memory when first asked for."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # ImageNet comes as a thousand archives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def read_ahead(self, path: str, offset: int, size: int) -> None:
        """Have the system fetch the bytes in the background; `read` would wait for them."""
        archive = self._map(path)
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        size = min(offset + size, len(archive)) - start
        if size > 0:
            archive.madvise(mmap.MADV_WILLNEED, start, size)

    def read(self, path: str, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes [size] of the archive, without a copy; fewer where the archive ends before."""
        return np.frombuffer(self._map(path), np.uint8)[offset : offset + size]

    def _map(self, path: str) -> mmap.mmap:
        if path not in self._maps:
            if not os.path.getsize(path):
                raise ValueError(f"{path}: the archive is empty")
            with open(path, "rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[path]
