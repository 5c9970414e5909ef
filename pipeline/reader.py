"""Reads the files of a batch and looks at their headers, without a Python object for each image."""

import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline import archive_process, graph
from alexnet_dali.pipeline.dataset import ImageList
from alexnet_dali.pipeline.decode import of_an_image
from alexnet_dali.pipeline.faults import ResourceError, gist, resource_error, the_files_own
from alexnet_dali.pipeline.verify import why_bad

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
        self._lengths = images.lengths if images.spans is None else images.spans[:, 2]
        self._archives = None if images.spans is None else Archives(images)
        self._graph = self._new_graph()

    def read(self, indices: NDArray[np.int64]) -> graph.Encoded:
        """The contents of some images.

        FaultyImages where some are not what the list says; OSError where no file is to blame.
        """
        try:
            encoded, lengths, sizes = graph.read(self._graph, *self._files(indices))
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
        return graph.build_reader(self._archives is not None, self._batch_size, _THREADS)

    def _files(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """What the graph reads: paths; or contents, and how many bytes of each row they are."""
        if self._archives is None:
            return self._images.name_table(indices), None
        return self._archives.read(indices)

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
            graph.read(self._graph, *self._files(np.array([index])))
        except RuntimeError as error:
            self._graph = self._new_graph()
            if not of_an_image(error):
                raise resource_error(error) or ResourceError(
                    f"DALI failed to read {self._images.path(index)}, which is as it was when the "
                    f"lists were made ({gist(error)}); rerun the command to resume"
                ) from error
            return f"DALI finds no image in it ({gist(error)})"
        return ""


class Archives:
    """Images in archives, read by a process of its own into memory that is shared with it.

    Archives are not mapped into memory: one that is cut short would end the process. Nor does the
    memory lie in /dev/shm, which is small in containers.
    """

    def __init__(self, images: ImageList) -> None:
        assert images.spans is not None
        self._images, self._spans = images, images.spans
        self._descriptor = os.memfd_create("archives")
        self._memory: mmap.mmap | None = None
        self._width = mmap.PAGESIZE
        _, most_open = resource.getrlimit(resource.RLIMIT_NOFILE)  # ImageNet is a thousand archives
        # Ctrl-C, and what stops a job, reach all of its processes. This one ends with its pipe:
        # whoever reads may have steps to finish.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", archive_process.__file__, str(self._descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._descriptor],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (most_open, most_open))

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """[n, width] the contents of some images, a row each, and [n] how many bytes were found.

        They are there until the next call. No bytes where an archive is gone; OSError where the
        machine is to blame.
        """
        spans = self._spans[indices]
        names = self._images.name_table(indices, spans[:, 0])
        table = self._table(len(indices), int(spans[:, 2].max()))
        numbers = (np.ascontiguousarray(spans[:, place]).tobytes() for place in (1, 2))
        found = self._ask(
            (self._width, names.shape[1], names.tobytes(), *numbers), 8 * len(indices)
        )
        counts = np.frombuffer(found, np.int64)
        for number in np.unique(-counts[counts < 0]).tolist():
            error = OSError(number, os.strerror(number), str(self._images.root))
            if not the_files_own(error):
                raise error
        return table, np.maximum(counts, 0).astype(np.int32)

    def close(self) -> None:
        """End the process; nothing can be read any more."""
        if self._descriptor < 0:
            return
        self._process.kill()
        self._process.communicate()
        self._memory = None
        os.close(self._descriptor)
        self._descriptor = -1

    def _table(self, num_rows: int, longest: int) -> NDArray[np.uint8]:
        while self._width < longest:
            self._width *= 2
        size = num_rows * self._width
        if self._memory is None or len(self._memory) < size:
            os.ftruncate(self._descriptor, size)
            self._memory = mmap.mmap(self._descriptor, size)
        return np.frombuffer(self._memory, np.uint8, size).reshape(num_rows, self._width)

    def _ask(self, request: tuple[int | bytes, ...], size: int) -> bytes:
        """The process's answer, of `size` bytes."""
        pipes = self._process
        assert pipes.stdin is not None and pipes.stdout is not None
        try:
            pipes.stdin.write(pickle.dumps(request))
            pipes.stdin.flush()
            found = pipes.stdout.read(size)
        except BrokenPipeError:
            found = b""
        if len(found) < size:
            raise ResourceError(
                "the process that reads archives has ended (killed, or out of memory?); rerun the "
                "command to resume"
            )
        return found
