"""Names and places of millions of files in a few arrays: a Python object each would fill memory.

Both are pickled by item, so that a task takes no more along than what it asks for.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember

Indices = Sequence[int] | NDArray[np.int64]
"""Which items to take, in the order given."""

_PACKINGS = ("stored", "deflate", "parquet")
_NO_CHECKSUM = -1
_MOST = np.iinfo(np.int64).max  # an archive may claim any size


class Names:
    """Names of files: item i is `text[starts[i]:ends[i]]`."""

    def __init__(
        self, text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        self._text, self._starts, self._ends = text, starts, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """From names one by one; UnicodeEncodeError where one can't be a file's."""
        text, lengths = bytearray(), []
        for name in names:
            encoded = os.fsencode(name)
            text += encoded
            lengths.append(len(encoded))
        ends = np.cumsum(np.array(lengths, np.int64))
        return cls(np.frombuffer(text, np.uint8), ends - np.array(lengths, np.int64), ends)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._text[self._starts[index] : self._ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., "Names"], tuple[Any, ...]]:
        return Names.of, (list(self),)

    def take(self, indices: Indices) -> "Names":
        """Some of the names."""
        chosen = np.asarray(indices, np.int64)
        return Names(self._text, self._starts[chosen], self._ends[chosen])

    def parts(self) -> list[NDArray]:
        """Arrays that are equal for equal names in the same order, of files that lie alike."""
        return [self._text, self._starts, self._ends]


class Places:
    """Where files are in their archives: `archives` by name, and a row of numbers for each file."""

    _ROW = np.dtype(
        [
            ("archive", np.int32),
            ("compression", np.int8),
            ("offset", np.int64),
            ("size", np.int64),
            ("checksum", np.int64),
        ]
    )

    def __init__(self, archives: list[str], rows: NDArray[np.void]) -> None:
        self.archives, self.rows = archives, rows

    @classmethod
    def of(cls, places: Iterable[ArchiveMember]) -> "Places":
        """From places one by one."""
        numbers: dict[str, int] = {}
        rows = (
            (
                numbers.setdefault(place.archive, len(numbers)),
                _PACKINGS.index(place.compression),
                place.offset,
                min(place.size, _MOST),
                _NO_CHECKSUM if place.crc is None else place.crc,
            )
            for place in places
        )
        found = np.fromiter(rows, cls._ROW)
        return cls(list(numbers), found)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ArchiveMember:
        archive, compression, offset, size, checksum = self.rows[index].item()
        crc = None if checksum == _NO_CHECKSUM else checksum
        return ArchiveMember(self.archives[archive], offset, size, _PACKINGS[compression], crc)

    def __iter__(self) -> Iterator[ArchiveMember]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., "Places"], tuple[Any, ...]]:
        return Places.of, (list(self),)

    def take(self, indices: Indices) -> "Places":
        """Some of the places."""
        return Places(self.archives, self.rows[np.asarray(indices, np.int64)])

    def reading_order(self) -> NDArray[np.int64]:
        """Indices in the order in which files lie in their archives, and archives by name."""
        rank = np.argsort(np.argsort(np.array(self.archives)))[self.rows["archive"]]
        return np.lexsort((self.rows["size"], self.rows["offset"], rank))

    def spans(self) -> NDArray[np.int64]:
        """[n, 3], see image_list.ImageList: bytes of the archive's name, offset, size."""
        lengths = np.array([len(os.fsencode(name)) for name in self.archives], np.int64)
        columns = (lengths[self.rows["archive"]], self.rows["offset"], self.rows["size"])
        return np.stack(columns, axis=1)

    def must_be_unpacked(self) -> bool:
        """Whether one of the files can't be read as the archive's own bytes."""
        return bool((self.rows["compression"] != _PACKINGS.index("stored")).any())
