"""What a tar archive holds, and where; nothing is unpacked."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.errors import named
from alexnet_dali.pipeline.prepare.names import check_inside, is_skipped, only_archives, plain

_LONGEST_END = 1 << 25
"""Zeros behind the last file of an archive: two blocks, and what fills up its last record."""

_ENDS = (".tar",)


def is_tar(start: bytes) -> bool:
    """Whether a file that starts so, with 512 bytes or more, is a tar archive by its header."""
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], tarfile.ENCODING, "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def tar_entries(path: Path) -> Iterator[tuple[str, ArchiveMember | None]]:
    """(name, place) of each file and (name, None) of each folder, in the archive's order.

    A name may come twice; the last one counts, as when one unpacks. An archive of archives
    (ImageNet's training set) gives their files, in folders of their stems. ValueError where it is
    no tar archive, is not whole, or holds what can't be read in place: a symbolic link, a sparse
    file, a name that leads out of it.
    """
    with named(path, "tar"), tarfile.open(path, "r:") as archive:
        whole = ArchiveMember(path.name, 0, os.path.getsize(path))
        entries = list(_entries(archive, whole, path.name))
        files = [name for name, _, place in entries if place and not is_skipped(name)]
        holds_archives = only_archives(files, _ENDS)
        for name, entry, place in entries:
            is_archive = name.lower().endswith(_ENDS) and not is_skipped(name)
            if place is None or not holds_archives or not is_archive:
                yield name, place
                continue
            with tarfile.open(fileobj=archive.extractfile(entry), mode="r:") as inner:
                folder = name[: -len(".tar")]
                yield folder, None
                for file, _, spot in _entries(inner, place, name):
                    yield f"{folder}/{file}", spot


def _entries(
    archive: tarfile.TarFile, whole: ArchiveMember, called: str
) -> Iterator[tuple[str, tarfile.TarInfo, ArchiveMember | None]]:
    """Files and folders of the archive at `whole`; ValueError unless all of it is there."""
    places: dict[str, ArchiveMember] = {}
    for entry in archive:
        name = plain(entry.name)
        if entry.isdir() and name and not name.startswith("/"):
            yield name, entry, None
        if is_skipped(name) and not (entry.isfile() and not entry.issparse()):
            continue
        place = _place(entry, name, whole, places)
        if place is not None:
            places[name] = place
            yield name, entry, place
    # tarfile stops at anything that is no header, without a word; only zeros may follow the last
    # file.
    archive.fileobj.seek(archive.offset)
    end = archive.fileobj.read(_LONGEST_END + 1)
    if not 0 < len(end) <= _LONGEST_END or len(end) != whole.size - archive.offset or any(end):
        behind = -archive.offset % tarfile.RECORDSIZE  # an archive ends with zeros up to there
        if not any(end[:behind]) and is_tar(end[behind : behind + tarfile.BLOCKSIZE]):
            raise ValueError(
                f"another archive lies behind {called}, as cat joins them; join them with "
                "tar --concatenate (-A)"
            )
        raise ValueError(f"{called} is damaged or cut short behind {len(places)} files")


def _place(
    entry: tarfile.TarInfo, name: str, whole: ArchiveMember, places: dict[str, ArchiveMember]
) -> ArchiveMember | None:
    """Where an entry's bytes are; None where it is no file."""
    if entry.issym():
        raise ValueError(f"{name} is a symbolic link; make the archive with tar --dereference")
    check_inside(name)
    if entry.islnk():
        target = places.get(plain(entry.linkname))
        if target is None:
            raise ValueError(f"{name} is a link to {entry.linkname}, which does not come before it")
        return target
    if not entry.isfile():
        return None
    if entry.issparse():
        raise ValueError(f"{name} is stored with holes; make the archive without tar --sparse (-S)")
    return ArchiveMember(whole.archive, whole.offset + entry.offset_data, entry.size)
