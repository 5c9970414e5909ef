"""Reads the files of a batch and looks at their headers, without a Python object for each image."""

import mmap
import os
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipeline import graph
from pipeline.dataset import ImageList
from pipeline.decode import of_an_image
from pipeline.faults import MachineError, gist, machine_error, the_files_own
from pipeline.verify import why_bad

_THREADS = 8
"""They wait for disks and networks, not for processors."""


class FaultyImages(Exception):
    """Some images of a batch can't be used; `faults` says why, by image."""

    def __init__(self, faults: dict[int, str]) -> None:
        super().__init__(faults)
        self.faults = faults


class Reader:
    """Reads files ahead of the decoder, and compares their lengths and headers with the list.

    The bytes that are looked at are those that are decoded.
    """

    def __init__(self, images: ImageList, batch_size: int) -> None:
        """`batch_size` is the largest number of images in a batch."""
        self._images, self._batch_size = images, batch_size
        self._archives = None if images.spans is None else Archives(images)
        self._graph = self._new_graph()

    def read(self, indices: NDArray[np.int64]) -> graph.Encoded:
        """The contents of some images.

        FaultyImages where some are not what the list says; OSError where no file is to blame.
        """
        try:
            encoded, sizes = graph.read(self._graph, self._files(indices))
        except RuntimeError as error:
            raise FaultyImages(self._faults_alone(indices, error)) from error
        wrong = (sizes != self._images.sizes[indices]).any(axis=1)
        if wrong.any():
            found = zip(indices[wrong].tolist(), sizes[wrong].tolist(), strict=True)
            raise FaultyImages({index: self._why(index, *size) for index, size in found})
        return encoded

    def close(self) -> None:
        """Nothing can be read any more."""
        del self._graph
        if self._archives:
            self._archives.close()

    def _new_graph(self) -> graph.Pipeline:
        return graph.build_reader(self._archives is not None, self._batch_size, _THREADS)

    def _files(self, indices: NDArray[np.int64]) -> graph.Files:
        images = self._images
        if images.spans is not None:
            assert self._archives is not None
            rows, filled = self._archives.read(indices)
            return graph.Files(rows, images.spans[indices, 2], filled)
        lengths = np.full(len(indices), -1) if images.lengths is None else images.lengths[indices]
        return graph.Files(images.name_table(indices), lengths)

    def _why(self, index: int, height: int, width: int) -> str:
        expected_height, expected_width = self._images.sizes[index].tolist()
        why = why_bad(self._images, index)
        if why:
            return why
        if not height:
            return "it had another length when it was read than it has now"
        return (
            f"the decoder finds {width}x{height} pixels, and it had "
            f"{expected_width}x{expected_height} when the lists were made"
        )

    def _faults_alone(self, indices: NDArray[np.int64], error: RuntimeError) -> dict[int, str]:
        """Why some of a batch's files can't be read; MachineError where none is to blame."""
        fault = machine_error(error)
        if fault is not None:
            raise fault from error
        each = set(indices.tolist())
        faults = {index: why for index in each if (why := why_bad(self._images, index))}
        self._graph = self._new_graph()  # one that has failed does not run again
        if not faults:
            faults = {index: why for index in each if (why := self._fault_alone(index))}
        if not faults:
            raise MachineError(
                f"DALI failed to read a batch of {len(indices)} images, each of which can be read "
                f"alone ({gist(error)}); rerun the command to resume"
            ) from error
        return faults

    def _fault_alone(self, index: int) -> str:
        """What DALI says of one file whose size is right; empty if nothing."""
        try:
            graph.read(self._graph, self._files(np.array([index])))
        except RuntimeError as error:
            self._graph = self._new_graph()
            if not of_an_image(error):
                raise machine_error(error) or MachineError(
                    f"DALI failed to read {self._images.path(index)}, which is as it was when the "
                    f"lists were made ({gist(error)}); rerun the command to resume"
                ) from error
            return f"DALI finds no image in it ({gist(error)})"
        return ""


class Archives:
    """Reads images out of archives, each of which is opened when it is first asked for.

    They are not mapped into memory: one that is cut short would end the process.
    """

    def __init__(self, images: ImageList) -> None:
        assert images.spans is not None
        self._images, self._spans = images, images.spans
        self._open_files: dict[bytes, int] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "archives")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # ImageNet comes as a thousand archives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """[n, width] the contents of some images, a row each, and [n] how many bytes were found.

        No bytes where an archive is gone; OSError where the machine is to blame.
        """
        spans = self._spans[indices]
        width = max(1, int(spans[:, 2].max()))
        # Memory is taken for what is written alone, and given back with the table.
        table = memoryview(mmap.mmap(-1, len(indices) * width))
        paths = self._images.name_table(indices, spans[:, 0])
        names = paths.view(f"S{paths.shape[1]}")[:, 0].tolist()
        places = np.column_stack([np.arange(len(indices)) * width, spans[:, 1:]]).tolist()
        parts = [slice(part, None, _THREADS) for part in range(min(_THREADS, len(names)))]
        filled = np.empty(len(indices), np.int32)
        found = self._threads.map(lambda part: self._fill(table, names[part], places[part]), parts)
        for part, counts in zip(parts, found, strict=True):
            filled[part] = counts
        return np.frombuffer(table, np.uint8).reshape(len(indices), width), filled

    def close(self) -> None:
        """Close the archives; nothing can be read any more."""
        self._threads.shutdown()
        while self._open_files:
            os.close(self._open_files.popitem()[1])

    def _fill(
        self, table: memoryview, names: list[bytes], places: list[tuple[int, int, int]]
    ) -> list[int]:
        return [
            self._read_into(table[start : start + size], name, offset)
            for name, (start, offset, size) in zip(names, places, strict=True)
        ]

    def _read_into(self, row: memoryview, name: bytes, offset: int) -> int:
        try:
            return os.preadv(self._descriptor(name), [row], offset)
        except OSError as error:
            if not the_files_own(error):
                raise
            return 0

    def _descriptor(self, name: bytes) -> int:
        descriptor = self._open_files.get(name)
        if descriptor is None:
            opened = os.open(name, os.O_RDONLY)
            descriptor = self._open_files.setdefault(name, opened)
            if descriptor != opened:  # another thread was faster
                os.close(opened)
        return descriptor
