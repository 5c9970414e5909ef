"""What is known of each file so far, kept on disk, so that preparation can resume."""

import json
import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.arrays import read_arrays
from pipeline.files import atomic_write
from pipeline.prepare.store import Span
from pipeline.stats import PixelSums

_SAVE_EVERY = 10.0  # seconds


class Finding(NamedTuple):
    """What one file turned out to be: either its `size`, or the `reason` that it can't be used."""

    name: str  # as it will be in the list
    size: tuple[int, int] | None  # height and width, of the stored image where there is a store
    reason: str = ""
    oddity: str = ""  # why the file was converted, where there is a store
    span: Span | None = None
    stamp: list[int] | None = None  # size and time of the original, if it is a file of its own
    length: int | None = None  # bytes of the file that training reads, if it is a file of its own


class Ledger:
    """Findings in the order of the files, and the sums over their pixels; saved now and then."""

    def __init__(self, path: Path) -> None:
        """Resume from what `path` and the state beside it hold, if they are there.

        ValueError where they are damaged, OSError where they can't be read now.
        """
        self._state = path.with_suffix(".npz")
        self.done = 0
        self.position = (0, 0)  # of the store
        self.sums = PixelSums()
        self._crc = 0
        size = self._read_state(path) if self._state.exists() else 0
        # Open over many calls of add.
        self._file = open(path, "r+b" if size else "wb")  # noqa: SIM115
        self._file.truncate(size)
        self._file.seek(size)
        self._saved_at = time.monotonic()

    def add(self, finding: Finding) -> None:
        """Note the next file."""
        line = json.dumps(finding).encode() + b"\n"
        self._file.write(line)
        self._crc = zlib.crc32(line, self._crc)
        self.done += 1

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at > _SAVE_EVERY

    def save(self, position: tuple[int, int]) -> None:
        """When this returns, everything noted so far is safe on disk.

        `position` is how far the store has come.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        with atomic_write(self._state) as file:
            np.savez(
                file,
                done=self.done,
                size=self._file.tell(),
                crc=self._crc,
                position=position,
                count=self.sums.count,
                total=self.sums.total,
                moments=self.sums.moments,
            )
        self._saved_at = time.monotonic()

    def findings(self) -> list[Finding]:
        """All files noted so far."""
        self._file.flush()
        with open(self._file.name, "rb") as file:
            return [Finding(*json.loads(line)) for line in file]

    def _read_state(self, path: Path) -> int:
        state = read_arrays(self._state)
        try:
            size, self._crc = int(state["size"]), int(state["crc"])
            self.done = int(state["done"])
            number, position = state["position"].tolist()
            self.position = (number, position)
            self.sums = PixelSums(int(state["count"]), state["total"], state["moments"])
            with open(path, "rb") as file:
                is_whole = zlib.crc32(file.read()[:size]) == self._crc
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, repr(error)) from error
        if not is_whole:
            raise _damaged(path, "its checksum differs")
        return size


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path}, the notes of an unfinished preparation, is damaged ({why}), so what was done is "
        "given up; rerun the command to begin afresh"
    )
