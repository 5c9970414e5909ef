"""The files of coming batches: checked, and read where they lie in archives, by threads."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import Archives
from pipeline.dataset import ImageList
from pipeline.intact import Checked, check

_THREADS = 8
"""They wait for disks and networks, not for processors."""


class Ahead:
    """Looks at files before they are needed, so that training does not wait for a slow disk."""

    def __init__(self, images: ImageList) -> None:
        self._images, self._archives = images, Archives()
        self._pool = ThreadPoolExecutor(_THREADS, "files")
        self._begun: dict[int, list[Future[list[Checked]]]] = {}

    def begin(self, step: int, indices: NDArray[np.int64]) -> None:
        """Look at the files of a step, in the background."""
        if step not in self._begun:
            parts = np.array_split(indices, _THREADS)
            self._begun[step] = [self._pool.submit(self._check_all, part) for part in parts]

    def take(self, step: int, indices: NDArray[np.int64]) -> list[Checked]:
        """What has been found of a step's files, in their order."""
        self.begin(step, indices)
        return [one for part in self._begun.pop(step) for one in part.result()]

    def check(self, index: int) -> Checked:
        """Look at one file now."""
        return check(self._images, index, self._archives)

    def _check_all(self, indices: NDArray[np.int64]) -> list[Checked]:
        return [self.check(index) for index in indices.tolist()]
