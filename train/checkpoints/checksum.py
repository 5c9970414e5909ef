"""A checkpoint's checksums: every byte of the file is under one of them.

torch writes a zip archive that has a checksum for each member. Headers, padding and directory are
under none of these. So one more, over all of those, is the archive's comment.
"""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from alexnet_dali.pipeline.system.faults import the_disks_own

_LENGTHS_AT, _HEADER = 26, 30
"""Of a member's header, in bytes: where the lengths of name and extra field are, and its own."""

_NO_COMMENT = struct.pack("<H", 0)
"""The last bytes of an archive without a comment: its length."""


def seal(file: BinaryIO) -> None:
    """End the archive just written to `file` with the checksum of what no member's own covers."""
    file.flush()
    with open(file.name, "rb") as written, zipfile.ZipFile(written) as archive:
        comment = _seal(written, archive, written.seek(0, os.SEEK_END) - len(_NO_COMMENT))
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(comment)


def damage(path: Path) -> str:
    """What is wrong with the file's bytes; empty where each is as it was written.

    OSError where the disk fails.
    """
    if wrong := damage_of_members(path):
        return wrong
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if not archive.comment:
                return (
                    "not a checkpoint of this project, or damaged (it has no checksum of its own)"
                )
            length = len(_comment(0))
            sealed = _seal(file, archive, file.seek(0, os.SEEK_END) - length)
            file.seek(-length, os.SEEK_END)
            same = file.read() == sealed
            return "" if same else "damaged (the checksum of its directory differs)"
    except Exception as error:  # zipfile raises many kinds for a file that is damaged
        if the_disks_own(error):
            raise
        return f"damaged ({error})"


def damage_of_members(path: Path) -> str:
    """What is wrong with the members of any archive of torch's.

    Members are never unpacked: torch stores them as they are, and any that claims to unpack to more
    is a trap for the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries, size = archive.infolist(), path.stat().st_size
            if len({entry.filename for entry in entries}) < len(entries):
                return "damaged (it holds a member twice)"
            stored = sum(entry.file_size for entry in entries) <= size
            if not stored or any(entry.compress_type for entry in entries):
                return "not a checkpoint of this project (it is compressed)"
            bad = archive.testzip()
            return f"damaged (the checksum of {bad} differs)" if bad is not None else ""
    except Exception as error:  # zipfile raises many kinds for a file that is damaged
        if the_disks_own(error):
            raise
        return f"damaged or cut short ({error})"


def _seal(file: BinaryIO, archive: zipfile.ZipFile, end: int) -> bytes:
    """The archive's comment, with its length before it: the checksum of all but members' bytes."""
    crc, position = 0, 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        file.seek(entry.header_offset + _LENGTHS_AT)
        begin = entry.header_offset + _HEADER + sum(struct.unpack("<HH", file.read(4)))
        file.seek(position)
        crc = zlib.crc32(file.read(begin - position), crc)
        position = begin + entry.file_size
    file.seek(position)
    return _comment(zlib.crc32(file.read(end - position), crc))


def _comment(crc: int) -> bytes:
    text = b"crc32 %08x" % crc
    return struct.pack("<H", len(text)) + text
