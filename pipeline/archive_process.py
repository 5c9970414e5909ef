"""A process that reads images out of archives, so that no loop over them holds up training.

`pipeline.reader` starts it as a script. It imports Python's own modules alone, to start at once.
"""

import mmap
import os
import pickle
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

_THREADS = 4
"""They wait for disks and networks, more than for processors."""

_KEPT = 1 << 18
"""Bytes of a row whose memory is kept for the next batch; few images have more."""


class _Table:
    """Memory that is shared with the process that asks: a row for each image of a batch."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None
        self._long: list[tuple[int, int]] = []

    def rows(self, width: int, sizes: list[int]) -> list[memoryview]:
        """The beginnings of rows `width` bytes apart, for images of `sizes` bytes.

        What long images took of the memory before is given back.
        """
        if self._memory is not None:
            for start, size in self._long:
                self._memory.madvise(mmap.MADV_REMOVE, start, size)
        if self._memory is None or len(self._memory) < width * len(sizes):
            self._memory = mmap.mmap(self._descriptor, width * len(sizes))
        self._long = [
            (row * width + _KEPT, width - _KEPT) for row, size in enumerate(sizes) if size > _KEPT
        ]
        view = memoryview(self._memory)
        return [view[row * width : row * width + size] for row, size in enumerate(sizes)]


class _Archives:
    """Reads from archives, each of which is opened when it is first asked for."""

    def __init__(self) -> None:
        self._open: dict[bytes, int] = {}
        self._threads = ThreadPoolExecutor(_THREADS)

    def read(self, names: list[bytes], rows: list[memoryview], offsets: list[int]) -> "array[int]":
        """How many bytes were read into each row; where the system says no, minus its errno."""
        parts = [slice(part, None, _THREADS) for part in range(min(_THREADS, len(rows)))]
        found = array("q", bytes(8 * len(rows)))

        def read(part: slice) -> None:
            places = zip(names[part], rows[part], offsets[part])
            found[part] = array("q", (self._read_one(*place) for place in places))

        list(self._threads.map(read, parts))
        return found

    def _read_one(self, name: bytes, row: memoryview, offset: int) -> int:
        try:
            descriptor = self._open.get(name)
            if descriptor is None:
                opened = os.open(name, os.O_RDONLY)
                descriptor = self._open.setdefault(name, opened)
                if descriptor != opened:  # another thread was faster
                    os.close(opened)
            return os.preadv(descriptor, [row], offset)
        except OSError as error:
            return -(error.errno or 0)


def serve(requests: BinaryIO, answers: BinaryIO, descriptor: int) -> None:
    """Answer until there are no more requests: until whoever asks has ended.

    A request is (row width, length of a name, names, offsets and sizes), the last two of 8 bytes
    each. An answer is 8 bytes for each image: see `_Archives.read`.
    """
    table, archives = _Table(descriptor), _Archives()
    while True:
        try:
            width, length, text, *numbers = pickle.load(requests)
        except EOFError:
            return
        offsets, sizes = (array("q", each).tolist() for each in numbers)
        starts = range(0, len(text), length)
        names = [text[start : start + length].rstrip(b"\0") for start in starts]
        answers.write(archives.read(names, table.rows(width, sizes), offsets).tobytes())
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))
