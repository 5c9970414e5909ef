"""Runs the graph over a plan and hands out tensors; shows others in the place of bad images."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_dali.pipeline import graph
from alexnet_dali.pipeline.augmentations import Augmentation
from alexnet_dali.pipeline.decode import of_an_image, sound_image
from alexnet_dali.pipeline.geometry import are_cuts
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.plan import Plan
from alexnet_dali.pipeline.reading.replacements import OnBadImage, stop
from alexnet_dali.pipeline.reading.requests import MustResample, Requests, Step
from alexnet_dali.pipeline.system.faults import ResourceError, gist, resource_error
from alexnet_dali.pipeline.system.parent import check_process
from alexnet_dali.pipeline.transform import Transform

_CPU = torch.device("cpu")
IGNORE_INDEX = -1
"""The label of rows that only fill up a batch of an evaluation."""
_UNCOUNTED = {"i": IGNORE_INDEX, "f": np.nan, "b": False}

_LEFT_ALONE: list[object] = []
"""Feeders of a process that this one was forked from. DALI crashes where it frees their threads."""


class Batch(NamedTuple):
    """A rank's rows of a global batch, on its device."""

    images: Tensor  # [n, 3, size, size] float32 by default, mean-subtracted RGB
    labels: Tensor  # [n] int64 class index, or IGNORE_INDEX; other targets: see DataLoader


class IndexedBatch(NamedTuple):
    """A batch that knows its images."""

    images: Tensor
    labels: Tensor
    indices: Tensor  # [n] int64 places in the list, or IGNORE_INDEX


class Feeder:
    """The batches of a plan from `first_step` on; the next ones are made while one is used.

    Each rank reads its `shard` of `num_shards` of every batch.
    """

    def __init__(
        self,
        images: ImageList,
        plan: Plan,
        transform: Transform,
        *,
        device: torch.device = _CPU,
        decoder: str = "gpu",
        num_threads: int = 1,
        shard: int = 0,
        num_shards: int = 1,
        first_step: int = 0,
        on_bad_image: OnBadImage = stop,
        count_replaced: bool = True,
        pad: bool | str = True,
        with_index: bool = False,
        augmentations: Sequence[Augmentation] = (),
        seed: int = 0,
    ) -> None:
        """`num_threads` decode on a CPU; on a GPU, `decoder` "cpu" has them decode for it, too.

        `on_bad_image` is called when a batch is handed out that shows another image in the place of
        a bad one, which is drawn from `seed`. Without `count_replaced`, that row does not count.
        Rows that do not count are left out; with `pad`, they have the label IGNORE_INDEX, and with
        "evenly" those that were replaced have it.
        """
        self._images, self._plan, self._transform = images, plan, transform
        self._targets = images.labels if images.targets is None else images.targets
        self._num_threads, self._batch_size = num_threads, plan.batch_size // num_shards
        self.step = first_step
        """The step of the next batch."""
        self._on_bad_image = on_bad_image
        self._count_replaced, self._pad = count_replaced, pad
        self._with_index = with_index
        self._device, self._process = device, os.getpid()
        self._pipeline: graph.Pipeline | None = None
        on_gpu = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if on_gpu else None
        options = graph.GraphOptions(
            transform.size,
            not are_cuts(plan.samples(first_step, shard, num_shards).boxes, transform.size),
            transform.lit_gain != 1,
            device.index if on_gpu else None,
            on_gpu and decoder == "gpu",
            transform.std,
            transform.dtype,
            "HWC" if transform.channels_last else "CHW",
            tuple(augmentations),
        )
        self._requests = Requests(
            images, plan, transform, options, shard=shard, num_shards=num_shards, seed=seed
        )
        self._begin()

    def __iter__(self) -> Iterator[Batch | IndexedBatch]:
        """Batches in order; ResourceError or OSError where a failure is no file's."""
        while self.step < self._plan.num_steps:
            yield self.next()

    def next(self) -> Batch | IndexedBatch:
        """The next batch, if the plan has one."""
        check_process(self._process)
        output, step = self._run()
        self.step += 1
        for bad in step.bad:
            self._on_bad_image(bad)
        samples = step.samples
        counts = samples.valid if self._count_replaced else samples.valid & ~step.replaced
        columns = [self._targets[samples.indices]]
        if self._with_index:
            columns.append(samples.indices.copy())
        parts = [torch.from_numpy(_but_uncounted(column, counts)) for column in columns]
        images = self._take(output)
        kept = samples.valid if self._pad == "evenly" else counts
        if self._pad is not True and not kept.all():
            rows = torch.from_numpy(np.flatnonzero(kept))
            images, parts = images[self._to_device(rows)], [part[rows] for part in parts]
        kind = IndexedBatch if self._with_index else Batch
        return kind(images, *map(self._to_device, parts))

    def close(self) -> None:
        """Free threads and memory; no batch comes any more."""
        if os.getpid() != self._process:
            _LEFT_ALONE.append(self)
        elif self._pipeline is not None:
            self._stop()
            self._requests.close()

    def __del__(self) -> None:
        self.close()

    def _run(self) -> tuple[Any, Step]:
        """The graph's output for the next step, and the step."""
        while True:
            try:
                assert self._pipeline is not None
                (output,) = self._pipeline.run()
            except StopIteration:  # its request has failed
                failed = self._asked.popleft()
                try:
                    if not isinstance(failed, MustResample):
                        raise failed from None
                finally:
                    del failed  # its traceback keeps this call, and with it all that this knows
                self._requests.options = self._requests.options._replace(resample=True)
            except RuntimeError as error:
                self._blame(self._asked.popleft(), error)
            else:
                return output, self._asked.popleft()
            self._stop()  # a graph that has failed does not run again
            self._begin()

    def _blame(self, step: Step, error: RuntimeError) -> None:
        """Note which of a step's images can't be decoded; ResourceError where none is to blame."""
        fault = resource_error(error)
        if fault is not None:
            raise fault from error
        found = self._undecodable(step)
        if not found:
            raise ResourceError(
                f"DALI failed on a batch of {self._batch_size} images, each of which can be "
                f"decoded alone ({gist(error)}); rerun the command to resume"
            ) from error
        self._requests.faults |= found

    def _undecodable(self, step: Step) -> dict[int, str]:
        """Why some images of a step can't be decoded, each row of it being run alone."""
        indices, options = step.samples.indices.tolist(), self._requests.options
        rows = [
            graph.tensors(graph.row_of(step.request, row), options) for row in range(len(indices))
        ]
        found, row = {}, 0
        while row < len(indices):
            alone = self._graph(iter(rows[row:]))
            try:
                while row < len(indices):
                    alone.run()
                    row += 1
            except RuntimeError as error:
                if not of_an_image(error):
                    self._check_decoder(graph.row_of(step.request, row), indices[row], error)
                found[indices[row]] = f"it can't be decoded ({gist(error)})"
                row += 1
        return found

    def _check_decoder(self, request: graph.Request, index: int, error: RuntimeError) -> None:
        """ResourceError unless the decoder fails on an image again, and on a sound one does not."""
        sound = graph.encoded([sound_image(*self._images.sizes[index].tolist())])
        fault = resource_error(error)
        if fault or not self._fails(request) or self._fails({**request, "encoded": sound}):
            raise fault or ResourceError(
                f"DALI's decoder failed ({gist(error)}); rerun the command to resume"
            ) from error

    def _fails(self, request: graph.Request) -> bool:
        """Whether a graph of its own fails on a request for one row."""
        try:
            self._graph(iter([graph.tensors(request, self._requests.options)])).run()
        except RuntimeError:
            return True
        return False

    def _begin(self) -> None:
        """Ask for all steps from the next one on."""
        self._steps = self._requests.from_step(self.step)
        self._asked: deque[Any] = deque()  # steps; or, last, why there are no more
        self._pipeline = self._graph(_tensors(self._steps, self._asked))

    def _stop(self) -> None:
        self._pipeline = None
        self._steps.close()
        self._asked.clear()

    def _graph(self, requests: Iterator[tuple[graph.Encoded, ...]]) -> graph.Pipeline:
        mean = self._transform.mean_image
        return graph.build(
            requests,
            None if mean is None else np.ascontiguousarray(mean.transpose(2, 0, 1)),
            self._requests.options,
            self._batch_size,
            self._num_threads,
        )

    def _to_device(self, rows: Tensor) -> Tensor:
        if self._copies is None:
            return rows
        # Unpinned memory would be copied only once the network has caught up.
        return rows.pin_memory().to(self._device, non_blocking=True)

    def _take(self, output: Any) -> Tensor:
        """The graph's output as a tensor [n, 3, size, size]."""
        tensor = self._copied(output)
        return tensor.permute(0, 3, 1, 2) if self._transform.channels_last else tensor

    def _copied(self, output: Any) -> Tensor:
        if self._copies is None:
            return torch.from_dlpack(output.as_tensor())
        # DALI takes its GPU buffer back as soon as the host lets go of it, whatever is still queued
        # to read it. The copy is therefore finished first, on a stream of its own: this waits for
        # data, never for the network.
        with torch.cuda.stream(self._copies):
            copy = torch.from_dlpack(output.as_tensor()).clone()
        self._copies.synchronize()
        copy.record_stream(torch.cuda.current_stream(self._device))
        return copy


def _tensors(steps: Iterator[Step], asked: "deque[Any]") -> Iterator[tuple[graph.Encoded, ...]]:
    """What the graph is fed; the steps, or why one could not be made, are noted in `asked`.

    Of the feeder it knows nothing: a feeder that is let go of ends at once.
    """
    try:
        for step in steps:
            asked.append(step)
            yield step.tensors
    except Exception as error:
        asked.append(error)


def _but_uncounted(column: NDArray, counts: NDArray[np.bool_]) -> NDArray:
    """A copy of rows gathered from a table, in which those that do not count say so."""
    column[~counts] = _UNCOUNTED[column.dtype.kind]
    return column
