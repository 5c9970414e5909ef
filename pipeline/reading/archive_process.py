"""A process that reads images out of archives, so that no loop over them holds up training.

`pipeline.reading.reader` starts it as a script. It imports Python's own modules alone, to start
at once, and has one thread: threads would wait for each other's lock after every image.
"""

import mmap
import os
import pickle
import sys
from array import array
from typing import BinaryIO

_KEPT = 1 << 17
"""Bytes of a row whose memory is kept for the next batch; few images have more."""


class _Memory:
    """Memory that is shared with the process that asks: a row for each image."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._view = memoryview(b"")
        self._memory: mmap.mmap | None = None
        self._long: set[int] = set()

    def rows(self, starts: range, width: int, sizes: "array[int]") -> list[memoryview]:
        """The beginnings, of `sizes` bytes, of rows of `width` bytes that start at `starts`.

        What long images took of these rows before is given back.
        """
        if len(self._view) < starts[-1] + width:
            self._memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
            self._view = memoryview(self._memory)
        assert self._memory is not None
        for start in self._long.intersection(starts):
            self._memory.madvise(mmap.MADV_REMOVE, start + _KEPT, width - _KEPT)
            self._long.remove(start)
        self._long.update(start for start, size in zip(starts, sizes) if size > _KEPT)
        view = self._view
        return [view[start : start + size] for start, size in zip(starts, sizes)]


class _Archives:
    """Reads from archives, each of which is opened when it is first asked for."""

    def __init__(self) -> None:
        self._open: dict[bytes, int] = {}

    def read(self, name: bytes, row: memoryview, offset: int) -> int:
        """How many bytes were read into a row; where the system says no, minus its errno."""
        try:
            descriptor = self._open.get(name)
            if descriptor is None:
                descriptor = self._open[name] = os.open(name, os.O_RDONLY)
            return os.preadv(descriptor, [row], offset)
        except OSError as error:
            return -(error.errno or 0)


def serve(requests: BinaryIO, answers: BinaryIO, descriptor: int) -> None:
    """Answer until there are no more requests: until whoever asks has ended.

    A request is (where the rows start, their width, length of a name, names, offsets and sizes),
    the last two of 8 bytes each. An answer is 8 bytes for each image: see `_Archives.read`.
    """
    memory, archives = _Memory(descriptor), _Archives()
    while True:
        try:
            starts, width, length, text, *numbers = pickle.load(requests)
        except EOFError:
            return
        offsets, sizes = (array("q", each) for each in numbers)
        ends = range(length, len(text) + 1, length)
        names = [text[end - length : end].rstrip(b"\0") for end in ends]
        rows = memory.rows(starts, width, sizes)
        answers.write(array("q", map(archives.read, names, rows, offsets)).tobytes())
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))
