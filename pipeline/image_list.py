"""The images of a list: where each one is, its size, and its label or targets."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.reading.archives import read

NO_CLASS = -1
"""The label of images whose targets are not classes; loss functions refuse it."""

_LOOKED_AT = 8
"""Images of a list: where none of them is there, all have moved."""


@dataclass(frozen=True)
class ImageList:
    """A file list held as one blob of bytes: a million paths cost what their characters cost.

    `text` is the list file; path i is `text[starts[i]:ends[i]]`, relative to `root`. `labels` [n]
    int64; `sizes` [n, 2] int32 height and width. Images inside archives have `spans` [n, 3] int64:
    how many bytes of the path name the archive, and offset and size of the image in it. Files may
    have `lengths` [n] int64 in bytes. Targets that are not classes are `targets`, [n, classes] bool
    or [n, numbers] float32; `labels` are then NO_CLASS. `root_is_in` says where a user can change
    the root.
    """

    root: str
    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int32]
    spans: NDArray[np.int64] | None = None
    lengths: NDArray[np.int64] | None = None
    targets: NDArray[np.bool_ | np.float32] | None = None
    root_is_in: str = ""

    @classmethod
    def of(
        cls,
        root: str,
        names: Iterable[str],
        labels: Sequence[int] | NDArray[np.int64],
        sizes: Sequence[tuple[int, int]] | NDArray[np.int32],
        spans: Sequence[tuple[int, int, int]] | NDArray[np.int64] | None = None,
        lengths: Sequence[int] | NDArray[np.int64] | None = None,
        targets: NDArray[np.bool_ | np.float32] | None = None,
    ) -> "ImageList":
        """A list from an entry for each image; `spans` and `lengths` are for all or for none."""
        all_labels, lines = np.asarray(labels, np.int64), bytearray()
        for name, label in zip(names, all_labels, strict=True):
            lines += os.fsencode(f"{name} {label}\n")
        text = np.frombuffer(lines, np.uint8)
        all_spans = None if spans is None else np.asarray(spans, np.int64)
        all_lengths = None if lengths is None else np.asarray(lengths, np.int64)
        all_sizes = np.asarray(sizes, np.int32)
        return cls(
            root, text, *places(text), all_labels, all_sizes, all_spans, all_lengths, targets
        )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The file of image `index`, relative to the root.

        Inside an archive, the archive's name comes first.
        """
        return os.fsdecode(self.text[self.starts[index] : self.ends[index]].tobytes())

    def path(self, index: int) -> str:
        """`name` with the root before it."""
        return os.path.join(self.root, self.name(index))

    def archive(self, index: int) -> tuple[str, int, int]:
        """The archive that holds image `index`, and the image's offset and size in it."""
        assert self.spans is not None
        length, offset, size = self.spans[index].tolist()
        name = self.text[self.starts[index] : self.starts[index] + length].tobytes()
        return os.path.join(self.root, os.fsdecode(name)), offset, size

    def length(self, index: int) -> int | None:
        """Bytes of the encoded image `index`, where that is known."""
        if self.spans is not None:
            return int(self.spans[index, 2])
        return None if self.lengths is None else int(self.lengths[index])

    def name_table(
        self, indices: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """[n, width] paths of some images with the root before them, padded with zeros.

        `lengths` [n] cuts their names, such as to those of archives.
        """
        root = np.frombuffer(os.fsencode(os.path.join(self.root, "")), np.uint8)
        starts = self.starts[indices]
        if lengths is None:
            lengths = self.ends[indices] - starts
        longest = int(lengths.max())
        table = np.zeros((len(indices), len(root) + longest + 1), np.uint8)
        table[:, : len(root)] = root
        names = table[:, len(root) : -1]
        # Whole windows of text are copied: to pick out every byte takes five times as long.
        last = len(self.text) - longest
        windows = np.ndarray((last + 1,), f"V{longest}", self.text, strides=(1,))
        names[:] = windows[np.minimum(starts, last)].view(np.uint8).reshape(names.shape)
        names *= np.arange(longest) < lengths[:, None]
        for row in np.flatnonzero(starts > last).tolist():  # their windows begin too early
            name = self.text[starts[row] : starts[row] + lengths[row]]
            names[row] = np.pad(name, (0, longest - len(name)))
        return table

    def take(self, indices: NDArray[np.int64]) -> "ImageList":
        """Some of the images, in the order given."""
        return replace(
            self,
            starts=self.starts[indices],
            ends=self.ends[indices],
            labels=self.labels[indices],
            sizes=self.sizes[indices],
            spans=None if self.spans is None else self.spans[indices],
            lengths=None if self.lengths is None else self.lengths[indices],
            targets=None if self.targets is None else self.targets[indices],
        )

    def check_is_there(self) -> None:
        """DatasetError where the images have moved: none of some is there."""
        places = np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int).tolist()
        files = [self.path(i) if self.spans is None else self.archive(i)[0] for i in places]
        if not any(map(os.path.exists, files)):
            moved = f"; if they have moved, write where to into {self.root_is_in}"
            raise DatasetError(
                f"{files[0]} is not there, nor are other images of its list; mount their disk"
                + moved * bool(self.root_is_in)
            )

    def content(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError or ValueError where it can't be read."""
        return read(self.path(index)) if self.spans is None else read(*self.archive(index))


def places(text: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the path of each line `relative/path label` begins and ends; paths may hold spaces."""
    line_ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], line_ends[:-1] + 1])[: len(line_ends)]
    # A line without a space ends before it starts.
    spaces = np.concatenate([[-1], np.flatnonzero(text == ord(" "))])
    return starts, spaces[np.searchsorted(spaces, line_ends) - 1]
