"""Reads the files of a batch and looks at their headers, without a Python object for each image."""

import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline import graph
from alexnet_dali.pipeline.decode import of_an_image
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.reading import archive_process
from alexnet_dali.pipeline.reading.verify import undecodable, why_bad
from alexnet_dali.pipeline.system.cores import usable_cores
from alexnet_dali.pipeline.system.faults import ResourceError, gist, resource_error, the_files_own

_MOST_THREADS = 8
"""They wait for disks and networks, more than for processors."""
_PROCESSES = 4
"""For archives; they wait, too."""


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
        """`batch_size` is the number of images in a batch."""
        self._images, self._batch_size = images, batch_size
        self._lengths = images.lengths if images.spans is None else images.spans[:, 2]
        self._archives = None if images.spans is None else Archives(images)
        self._graph = self._new_graph()

    def read(self, indices: NDArray[np.int64]) -> list[graph.Encoded]:
        """The contents of some images, batch by batch.

        FaultyImages where some are not what the list says; OSError where no file is to blame.
        """
        try:
            encoded, lengths, sizes = self._read(indices)
        except RuntimeError as error:
            raise FaultyImages(self._faults_alone(indices, error)) from error
        wrong = (sizes != self._images.sizes[indices]).any(axis=1)
        if self._lengths is not None:
            wrong |= lengths != self._lengths[indices]
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
        num_threads = min(_MOST_THREADS, 2 * usable_cores())
        return graph.build_reader(self._archives is not None, self._batch_size, num_threads)

    def _read(
        self, indices: NDArray[np.int64]
    ) -> tuple[list[graph.Encoded], NDArray[np.int64], NDArray[np.int64]]:
        """Contents batch by batch, [n] how many bytes were found, [n, 2] sizes by the headers."""
        starts = range(0, len(indices), self._batch_size)
        parts = [slice(start, start + self._batch_size) for start in starts]
        if self._archives is None:
            names = self._images.name_table(indices)
            found = [graph.read(self._graph, names[part], None) for part in parts]
        else:
            rows, filled = self._archives.read(indices)
            words = -(-filled // graph.WORD).astype(np.int32)
            found = [graph.read(self._graph, rows[part], words[part]) for part in parts]
        encoded, lengths, sizes = zip(*found, strict=True)
        length = np.concatenate(lengths) if self._archives is None else filled
        return list(encoded), length, np.concatenate(sizes)

    def _why(self, index: int, height: int, width: int) -> str:
        expected_height, expected_width = self._images.sizes[index].tolist()
        why = why_bad(self._images, index)
        if why:
            return why
        if (height, width) == (expected_height, expected_width):
            return "it had another length when it was read than it has now"
        return (
            f"the decoder finds {width}x{height} pixels, and it had "
            f"{expected_width}x{expected_height} when the lists were made"
        )

    def _faults_alone(self, indices: NDArray[np.int64], error: RuntimeError) -> dict[int, str]:
        """Why some of a batch's files can't be read; OSError where none is to blame."""
        fault = resource_error(error)
        if fault is not None:
            raise fault from error
        os.stat(self._images.root)  # where all of it is gone, no image is to blame
        each = set(indices.tolist())
        faults = {index: why for index in each if (why := why_bad(self._images, index))}
        self._graph = self._new_graph()  # one that has failed does not run again
        if not faults:
            faults = {index: why for index in each if (why := self._fault_alone(index))}
        if not faults:
            raise ResourceError(
                f"DALI failed to read a batch of {len(indices)} images, each of which can be read "
                f"alone ({gist(error)}); rerun the command to resume"
            ) from error
        return faults

    def _fault_alone(self, index: int) -> str:
        """What DALI says of one file whose size is right; empty if nothing."""
        try:
            self._read(np.array([index]))
        except RuntimeError as error:
            self._graph = self._new_graph()
            fault = resource_error(error)
            if fault is None and (of_an_image(error) or undecodable(self._images, index)):
                return f"DALI finds no image in it ({gist(error)})"
            raise fault or ResourceError(
                f"DALI failed to read {self._images.path(index)}, which is as it was when the "
                f"lists were made ({gist(error)}); rerun the command to resume"
            ) from error
        return ""


_Request = tuple[range, int, int, *tuple[bytes, ...]]
"""See archive_process.serve."""


class Archives:
    """Images in archives, read by processes of their own into memory that is shared with them.

    Archives are not mapped into memory: one that is cut short would end the process. Nor does the
    memory lie in /dev/shm, which is small in containers.
    """

    def __init__(self, images: ImageList) -> None:
        assert images.spans is not None
        self._images, self._spans = images, images.spans
        self._processes: list[subprocess.Popen[bytes]] = []
        self._descriptor = os.memfd_create("archives")
        self._memory: mmap.mmap | None = None
        self._width = mmap.PAGESIZE
        _, most_open = resource.getrlimit(resource.RLIMIT_NOFILE)  # ImageNet is a thousand archives
        # Ctrl-C, and what stops a job, reach all of its processes. These end with their pipes:
        # whoever reads may have steps to finish.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for _ in range(_PROCESSES):
                process = subprocess.Popen(
                    [sys.executable, "-S", "-E", archive_process.__file__, str(self._descriptor)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[self._descriptor],
                )
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for process in self._processes:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most_open, most_open))

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """[n, width] the contents of some images, a row each, and [n] how many bytes were found.

        Zeros fill up their last word. They are there until the next call. No bytes where an archive
        is gone; OSError where the machine is to blame.
        """
        spans = self._spans[indices]
        names = self._images.name_table(indices, spans[:, 0])
        table = self._table(len(indices), int(spans[:, 2].max()))
        # Each process has rows of its own: it gives back memory that no other fills.
        parts = [slice(part, None, _PROCESSES) for part in range(min(_PROCESSES, len(indices)))]
        starts = range(0, table.size, self._width)
        width, length, (_, offsets, sizes) = self._width, names.shape[1], spans.T
        answers = self._ask(
            [
                (
                    starts[part],
                    width,
                    length,
                    *(each[part].tobytes() for each in (names, offsets, sizes)),
                )
                for part in parts
            ]
        )
        counts = np.empty(len(indices), np.int64)
        for part, answer in zip(parts, answers, strict=True):
            counts[part] = answer
        found = np.maximum(counts, 0)
        table[np.arange(len(indices))[:, None], found[:, None] + np.arange(graph.WORD)] = 0
        for number in np.unique(-counts[counts < 0]).tolist():
            error = OSError(number, os.strerror(number), str(self._images.root))
            if not the_files_own(error):
                raise error
        return table, found

    def close(self) -> None:
        """End the processes; nothing can be read any more."""
        if self._descriptor < 0:
            return
        self._end()
        self._memory = None
        os.close(self._descriptor)
        self._descriptor = -1

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes = []

    def _table(self, num_rows: int, longest: int) -> NDArray[np.uint8]:
        while self._width < longest + graph.WORD:
            self._width *= 2
        size = num_rows * self._width
        if self._memory is None or len(self._memory) < size:
            os.ftruncate(self._descriptor, size)
            self._memory = mmap.mmap(self._descriptor, size)
        return np.frombuffer(self._memory, np.uint8, size).reshape(num_rows, self._width)

    def _ask(self, requests: Sequence[_Request]) -> list[NDArray[np.int64]]:
        """The processes' answers to a request each."""
        try:
            for process, request in zip(self._processes, requests):
                assert process.stdin is not None
                process.stdin.write(pickle.dumps(request))
                process.stdin.flush()
            found = []
            for process, (starts, *_) in zip(self._processes, requests):
                assert process.stdout is not None
                found.append(np.frombuffer(process.stdout.read(8 * len(starts)), np.int64))
        except BrokenPipeError:
            found = []
        if [len(answer) for answer in found] != [len(starts) for starts, *_ in requests]:
            self._end()  # what others answer may still be on its way
            raise ResourceError(
                "a process that reads archives has ended (killed, or out of memory?); rerun the "
                "command to resume"
            )
        return found
