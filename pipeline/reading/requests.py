"""What the graph is asked for at each step, made ahead of time by a thread."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline import geometry, graph
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.plan import Plan, Replaced, Samples
from alexnet_dali.pipeline.reading.reader import FaultyImages, Reader
from alexnet_dali.pipeline.reading.replacements import BadImage, replacement
from alexnet_dali.pipeline.transform import Transform

_TOGETHER = 512
"""Images of small batches that are made together: much of the cost does not grow with them."""
_AHEAD = 2
"""Steps that are made before they are asked for, beside those that the graph works at."""


class Step(NamedTuple):
    """A step's rows on this rank: what they show, and what the graph is asked for."""

    samples: Samples
    request: graph.Request
    tensors: tuple[graph.Encoded, ...]
    replaced: NDArray[np.bool_]  # [n] where another image is shown than was planned
    bad: list[BadImage]


class MustResample(Exception):
    """A graph for cuts of whole pixels meets another region."""


class Requests:
    """Makes the rows of steps: draws, replaces bad images, reads files, finds regions."""

    def __init__(
        self,
        images: ImageList,
        plan: Plan,
        transform: Transform,
        options: graph.GraphOptions,
        *,
        shard: int = 0,
        num_shards: int = 1,
        seed: int = 0,
    ) -> None:
        """Replacements of bad images are drawn from `seed`."""
        self._images, self._plan, self._transform = images, plan, transform
        self._shard, self._num_shards, self._seed = shard, num_shards, seed
        share = plan.batch_size // num_shards
        self._together = max(1, _TOGETHER // share)
        self._reader = Reader(images, share)
        self._directions = transform.directions.T.astype(np.float32)
        self._mean = np.array(transform.mean, np.float32)
        self.options = options
        self.faults: dict[int, str] = {}
        """Why images can't be used, as far as is known."""

    def steps(self, numbers: range) -> list[Step]:
        """The rows of some steps of one epoch.

        MustResample where the graph can't make them; OSError where no file is to blame;
        DatasetError where no image is left.
        """
        first, count = numbers.start, len(numbers)
        plan, rank = self._plan, (self._shard, self._num_shards)
        while True:
            samples = plan.samples(first, *rank, self._replaced(first), count)
            try:
                contents = self._reader.read(samples.indices)
            except FaultyImages as found:
                self.faults |= found.faults
            else:
                break
        request = self._request(samples)
        planned = samples.indices
        if self.faults:
            planned = plan.samples(first, *rank, count=count).indices
        share = len(planned) // count
        parts = [slice(start, start + share) for start in range(0, len(planned), share)]
        return [
            self._step(
                number,
                samples.part(rows),
                {"encoded": encoded, **{name: each[rows] for name, each in request.items()}},
                planned[rows],
            )
            for number, rows, encoded in zip(numbers, parts, contents, strict=True)
        ]

    def from_step(self, first: int) -> Generator[Step, None, None]:
        """The steps from `first` to the plan's end, made ahead of time."""
        thread = ThreadPoolExecutor(1, "requests")
        waiting: deque[Future[list[Step]]] = deque()
        try:
            for numbers in self._runs(first):
                waiting.append(thread.submit(self.steps, numbers))
                if (len(waiting) - 1) * self._together >= _AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Nothing can be asked for any more."""
        self._reader.close()

    def _runs(self, first: int) -> Iterator[range]:
        """Steps from `first` to the plan's end that are made together: none of two epochs."""
        per_epoch = self._plan.steps_per_epoch
        while first < self._plan.num_steps:
            end_of_epoch = (first // per_epoch + 1) * per_epoch
            end = min(first + self._together, end_of_epoch, self._plan.num_steps)
            yield range(first, end)
            first = end

    def _step(
        self, number: int, samples: Samples, request: graph.Request, planned: NDArray[np.int64]
    ) -> Step:
        replaced = (planned != samples.indices) & samples.valid
        # Once, however many views of it there are.
        pairs = dict.fromkeys(
            zip(planned[replaced].tolist(), samples.indices[replaced].tolist(), strict=True)
        )
        bad = [self._bad(number, *images) for images in pairs]
        return Step(samples, request, graph.tensors(request, self.options), replaced, bad)

    def _request(self, samples: Samples) -> dict[str, NDArray]:
        """What the graph is asked for, but the files' contents."""
        boxes, mirrored, size = samples.boxes, samples.mirrored, self._transform.size
        if self.options.resample:
            sizes = self._images.sizes[samples.indices]
            regions = geometry.resampled(boxes, sizes, mirrored, size)
        elif geometry.are_cuts(boxes, size):
            regions = geometry.cuts(boxes)
        else:
            raise MustResample
        lit = samples.lighting.any(axis=1)
        # A product of matrices is rounded in one way or another, by its number of rows.
        shift = (samples.lighting[:, :, None] * self._directions).sum(axis=1)
        return {
            "decode_start": regions.decode_start,
            "decode_end": regions.decode_end,
            "roi_start": regions.start,
            "roi_end": regions.end,
            "mirrored": mirrored.astype(np.int32),
            "mean": self._mean - shift,
            "gain": np.where(lit, self._transform.lit_gain, 1).astype(np.float32),
            **samples.drawn,
        }

    def _replaced(self, number: int) -> Replaced | None:
        """What a step shows in the place of bad images, where any are known."""
        if not self.faults:
            return None
        epoch, faulty = number // self._plan.steps_per_epoch, np.array(list(self.faults))

        def replaced(indices: NDArray[np.int64]) -> NDArray[np.int64]:
            rows = np.flatnonzero(np.isin(indices, faulty))
            indices = indices.copy()
            for row in rows.tolist():
                index = int(indices[row])
                indices[row] = replacement(
                    self._images, index, self._seed, epoch, lambda other: other not in self.faults
                )
            return indices

        return replaced

    def _bad(self, number: int, index: int, shown: int) -> BadImage:
        path = self._images.path
        return BadImage(number, index, path(index), self.faults[index], path(shown))
