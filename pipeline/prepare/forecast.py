"""Whether the images to be stored fit on the disk, as told from the first thousand."""

import errno
import os
import shutil
import sys
from pathlib import Path

_AFTER = 1000
"""Images."""


class Forecast:
    """What is stored of a preparation so far, and what is to come."""

    def __init__(self, folder: Path, total: int, in_shards: bool) -> None:
        """`total` images are still to be stored in `folder`: in shards, or a file each."""
        self._folder, self._left, self._in_shards = folder, total, in_shards
        self._block = os.statvfs(folder).f_frsize
        self._count = self._bytes = 0

    def skip(self, count: int) -> None:
        """So many were stored before."""
        self._left -= count

    def add(self, count: int, sizes: list[int]) -> None:
        """Of `count` images, what is stored of those that can be used, in bytes.

        After the first thousand, prints what all will take; OSError where that does not fit.
        """
        has_told = self._count >= _AFTER
        self._count += count
        self._left -= count
        block = 1 if self._in_shards else self._block
        self._bytes += sum(-(-size // block) * block for size in sizes)
        if self._count >= _AFTER and not has_told:
            self._tell()

    def _tell(self) -> None:
        disk, each = os.statvfs(self._folder), self._bytes / self._count
        more, free = self._left * each, shutil.disk_usage(self._folder).free
        print(
            f"store: {(more + self._bytes) / 1e9:.1f} GB, {more / 1e9:.1f} GB of them still to be "
            f"written; {free / 1e9:.1f} GB are free",
            file=sys.stderr,
            flush=True,
        )
        if more > free:
            raise _full(f"{more / 1e9:.1f} GB are to come, {free / 1e9:.1f} GB are free")
        if not self._in_shards and disk.f_files and self._left > disk.f_favail:
            raise _full(
                f"{self._left} files are to come, but the file system has room for "
                f"{disk.f_favail} (df -i); --shards takes few; otherwise"
            )


def _full(why: str) -> OSError:
    return OSError(errno.ENOSPC, f"the store does not fit: {why}")
