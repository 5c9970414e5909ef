"""What a zip archive holds, and where; nothing is unpacked."""

import contextlib
import os
import shlex
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.archives.errors import named
from alexnet_dali.pipeline.prepare.names import check_inside, is_skipped, plain

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and the extra field
_PACKING = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
_ENCRYPTED, _UTF8 = 1, 1 << 11
_UNIX = 3
_LONGEST_END = 22 + (1 << 16)
"""The last record, and a comment behind it."""


def zip_entries(path: Path) -> Iterator[tuple[str, ArchiveMember | None]]:
    """(name, place) of each file and (name, None) of each folder, in the archive's order.

    ValueError where it is no zip archive, is not whole, or holds what can't be read by its place: a
    symbolic link, an encrypted file, a compression other than deflate, a name that leads out of it.
    """
    with named(path, "zip"), open(path, "rb") as file:
        _check_not_split(file, path)
        archive = zipfile.ZipFile(file)
        for entry in archive.infolist():
            name, is_folder = _name(entry)
            if is_folder:
                yield name, None
                continue
            why_not = _why_not(entry)
            if why_not and is_skipped(name):
                continue
            if why_not:
                raise ValueError(f"{name} {why_not}")
            check_inside(name)
            offset = _data_offset(file, entry.header_offset, name)
            compression = _PACKING[entry.compress_type]
            yield (
                name,
                ArchiveMember(path.name, offset, entry.compress_size, compression, entry.CRC),
            )


def _check_not_split(file: BinaryIO, path: Path) -> None:
    """ValueError for the last part of an archive that was split (a.z01, a.z02, a.zip)."""
    file.seek(max(0, os.path.getsize(path) - _LONGEST_END))
    end = file.read()
    place = end.rfind(b"PK\5\6")
    if place >= 0 and end[place + 4 : place + 6] not in (b"", b"\0", b"\0\0", b"\xff\xff"):
        raise ValueError(
            "is the last part of a zip archive that was split; join the parts: zip -s 0 "
            f"{shlex.quote(str(path))} --out whole.zip"
        )


def _name(entry: zipfile.ZipInfo) -> tuple[str, bool]:
    """The entry's name as unpacked, and whether it is a folder.

    macOS writes UTF-8 without saying so, Unix any bytes, and Windows may write backslashes.
    """
    name = entry.filename
    if not entry.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            raw = name.encode("cp437")
            name = os.fsdecode(raw) if entry.create_system == _UNIX else raw.decode()
    if entry.create_system != _UNIX:
        name = name.replace("\\", "/")
    return plain(name), name.endswith("/")


def _why_not(entry: zipfile.ZipInfo) -> str:
    """Why an entry can't be read by its place; empty where it can."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link; make the archive without zip --symlinks"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in _PACKING:
        return f"is packed with method {entry.compress_type}; expected deflate"
    return ""


def _data_offset(file: BinaryIO, header_offset: int, name: str) -> int:
    """Where an entry's bytes begin: behind its local header, whose extra field has its own size."""
    file.seek(header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise ValueError(f"{name} is not where the archive says; it is damaged or cut short")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return header_offset + _LOCAL_HEADER.size + name_length + extra_length
