"""What is known of each file so far, kept on disk, so that preparation can resume."""

import json
import os
import time
import zlib
from pathlib import Path

import numpy as np

from alexnet_dali.pipeline.arrays import read_arrays
from alexnet_dali.pipeline.prepare.records import ROW, Findings
from alexnet_dali.pipeline.stats import PixelSums
from alexnet_dali.pipeline.system.files import atomic_write

_SAVE_EVERY = 10.0  # seconds
_TOGETHER = 1 << 24  # bytes


class Journal:
    """Findings in the order of the files, and the sums over their pixels; saved now and then.

    Rows are in `path` with the ending .rows, remarks in .remarks, a line of JSON each, and what was
    saved of both in .npz.
    """

    def __init__(self, path: Path) -> None:
        """Resume from what an earlier process saved, if it did.

        ValueError where that is damaged, OSError where it can't be read now.
        """
        self._state = path.with_suffix(".npz")
        self.position = (0, 0)  # of the store
        self.sums = PixelSums()
        rows = remarks = (0, 0)
        if self._state.exists():
            rows, remarks = self._read_state()
        self._rows = _Log(path.with_suffix(".rows"), *rows)
        self._remarks = _Log(path.with_suffix(".remarks"), *remarks)
        self._saved_at = time.monotonic()

    @property
    def done(self) -> int:
        """How many files have been noted."""
        return self._rows.size // ROW.itemsize

    def add(self, found: Findings, sums: PixelSums | None) -> None:
        """Note the files that come next."""
        lines = [
            json.dumps([self.done + place, remark]).encode() + b"\n"
            for place, remark in found.remarks.items()
        ]
        self._remarks.append(b"".join(lines))
        self._rows.append(found.rows.tobytes())
        if sums is not None:
            self.sums.merge(sums)

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at > _SAVE_EVERY

    def save(self, position: tuple[int, int]) -> None:
        """When this returns, everything noted so far is safe on disk.

        `position` is how far the store has come.
        """
        rows, remarks = self._rows.save(), self._remarks.save()
        with atomic_write(self._state) as file:
            np.savez(
                file,
                rows=rows,
                remarks=remarks,
                position=position,
                count=self.sums.count,
                total=self.sums.total,
                moments=self.sums.moments,
            )
        self._saved_at = time.monotonic()

    def findings(self) -> Findings:
        """All files noted so far."""
        rows = np.fromfile(self._rows.flushed(), ROW)
        with open(self._remarks.flushed(), "rb") as file:
            return Findings(rows, dict(json.loads(line) for line in file))

    def _read_state(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Bytes and checksums of both files."""
        state = read_arrays(self._state)
        try:
            rows, remarks, position = (
                _pair(state[name].tolist()) for name in ("rows", "remarks", "position")
            )
            self.position = position
            self.sums = PixelSums(int(state["count"]), state["total"], state["moments"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self._state, repr(error)) from error
        return rows, remarks


class _Log:
    """A file that grows at its end, with a checksum of all of it."""

    def __init__(self, path: Path, size: int, checksum: int) -> None:
        """Go on behind the first `size` bytes; ValueError where they have another checksum."""
        self._path, self.size, self._checksum = path, size, checksum
        try:
            found = _checksum(path, size) if size else 0
        except FileNotFoundError as error:
            raise _damaged(path, "it is gone") from error
        if found != checksum:
            raise _damaged(path, "its checksum differs")
        # Open over many calls of append.
        self._file = open(path, "r+b" if size else "wb")  # noqa: SIM115
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self.size += len(data)

    def save(self) -> tuple[int, int]:
        """Size and checksum of what is on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.size, self._checksum

    def flushed(self) -> Path:
        """The file, with all that was appended in it."""
        self._file.flush()
        return self._path


def _checksum(path: Path, size: int) -> int:
    """Of the first `size` bytes, or of all where there are fewer."""
    checksum = 0
    with open(path, "rb") as file:
        while size > 0 and (data := file.read(min(size, _TOGETHER))):
            checksum = zlib.crc32(data, checksum)
            size -= len(data)
    return checksum


def _pair(numbers: list[int]) -> tuple[int, int]:
    first, second = numbers
    return first, second


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path}, the notes of an unfinished preparation, is damaged ({why}), so what was done is "
        "given up; rerun the command to begin afresh"
    )
