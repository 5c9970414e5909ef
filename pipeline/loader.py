"""Runs the graph over a plan and hands out tensors; shows stand-ins for bad images."""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import graph
from pipeline.ahead import Ahead
from pipeline.dataset import ImageList
from pipeline.decode import decode
from pipeline.faults import MachineError, gist, machine_error
from pipeline.geometry import box_regions, on_the_grid, source_regions
from pipeline.intact import Checked
from pipeline.plan import Plan, Views
from pipeline.preprocessing import Preprocessing
from pipeline.stand_ins import BadImage, OnBadImage, stand_in, stop

_CPU = torch.device("cpu")
NOT_COUNTED = -1
"""The label of rows that only fill up the last batch of an evaluation."""


class Batch(NamedTuple):
    """Part of a global batch, on its device."""

    images: Tensor  # [n, 3, crop, crop] float32 by default, mean-subtracted RGB
    labels: Tensor  # [n] int64 class index, or NOT_COUNTED


class _Rows(NamedTuple):
    """What this rank shows in a step: views of usable images, their files, and who is missing."""

    views: Views
    files: list[NDArray[np.uint8]]  # paths; or, from archives, contents
    bad: list[BadImage]


class Loader:
    """The batches of a plan from `first_step` on; the next ones are prepared while one is used.

    One process: `Loader(images, plan, preprocessing)`. Several ranks: each reads `part` of
    `num_parts` of every batch.
    """

    def __init__(
        self,
        images: ImageList,
        plan: Plan,
        preprocessing: Preprocessing,
        *,
        device: torch.device = _CPU,
        num_threads: int | None = None,
        part: int = 0,
        num_parts: int = 1,
        first_step: int = 0,
        on_bad_image: OnBadImage = stop,
        count_stand_ins: bool = True,
        seed: int = 0,
    ) -> None:
        """Without `num_threads`, a thread for each core decodes.

        `on_bad_image` is called when a batch is handed out that shows a stand-in, which is drawn
        from `seed`. Without `count_stand_ins`, the row is then NOT_COUNTED.
        """
        self._images, self._plan, self._preprocessing = images, plan, preprocessing
        self._device, self._first_step = device, first_step
        self._part, self._num_parts = part, num_parts
        self._num_threads = num_threads or len(os.sched_getaffinity(0))
        self._on_bad_image, self._count_stand_ins = on_bad_image, count_stand_ins
        self._seed = seed
        # Each step's views are needed to look at its files, and to ask for it.
        self._views = lru_cache(maxsize=8)(lambda step: plan.views(step, part, num_parts))
        # Each step's rows are needed to ask for it, and when it arrives.
        self._rows = lru_cache(maxsize=8)(self._find_rows)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._root = np.frombuffer(os.fsencode(os.path.join(images.root, "")), np.uint8)
        self._ahead = Ahead(images)
        self._faults: dict[int, str] = {}
        has_boxes = self._views(first_step).boxes is not None
        self._resample = has_boxes or not on_the_grid(images.sizes, preprocessing.resize)
        self._has_gain = preprocessing.lit_gain != 1
        self._pipeline = self._graph_from(first_step)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order; MachineError where a failure is no file's."""
        for step in range(self._first_step, self._plan.num_steps):
            try:
                (images,) = self._pipeline.run()
            except RuntimeError as error:
                images = self._without_undecodable(step, error)
            rows = self._rows(step)
            for bad in rows.bad:
                self._on_bad_image(bad)
            labels = np.where(
                rows.views.counted, self._images.labels[rows.views.indices], NOT_COUNTED
            )
            yield Batch(self._take(images), self._to_device(torch.from_numpy(labels)))

    def _graph_from(self, first_step: int) -> graph.Pipeline:
        """The graph, which will be asked for all steps from `first_step` on."""
        preprocessing, on_gpu = self._preprocessing, self._device.type == "cuda"
        options = graph.GraphOptions(
            preprocessing.crop,
            self._images.spans is not None,
            self._resample,
            self._has_gain,
            on_gpu,
            preprocessing.std,
            preprocessing.dtype,
            "HWC" if preprocessing.channels_last else "CHW",
        )
        mean = preprocessing.mean_image
        return graph.build(
            (self.request(step) for step in range(first_step, self._plan.num_steps)),
            None if mean is None else np.ascontiguousarray(mean.transpose(2, 0, 1)),
            options,
            self._plan.batch_size // self._num_parts,
            self._device.index if on_gpu else None,
            self._num_threads,
        )

    def request(self, step: int) -> graph.Request:
        """What the graph is asked for: this rank's rows of a step."""
        images, preprocessing = self._images, self._preprocessing
        views, files, _ = self._rows(step)
        sizes, crop = images.sizes[views.indices], preprocessing.crop
        if views.boxes is not None:
            regions = box_regions(sizes, views.boxes, views.mirrored, crop)
        else:
            regions = source_regions(
                sizes, views.corners, views.mirrored, preprocessing.resize, crop, self._resample
            )
        lighting = views.lighting @ preprocessing.directions.T.astype(np.float32)
        request: graph.Request = {
            "file": files,
            "decode_start": regions.decode_start,
            "decode_end": regions.decode_end,
            "shift": lighting - np.array(preprocessing.mean_colour, np.float32),
        }
        if self._resample:
            request |= {"roi_start": regions.start, "roi_end": regions.end}
        else:
            request["mirrored"] = views.mirrored.astype(np.int32)
        if self._has_gain:
            lit = views.lighting.any(axis=1)
            request["gain"] = np.where(lit, preprocessing.lit_gain, 1).astype(np.float32)
        return request

    def _find_rows(self, step: int) -> _Rows:
        """A step's rows, once its files have been looked at; those of the next step are begun."""
        views = self._views(step)
        checked = self._ahead.take(step, views.indices)
        if step + 1 < self._plan.num_steps:
            self._ahead.begin(step + 1, self._views(step + 1).indices)
        for index, one in zip(views.indices.tolist(), checked):
            if one.fault:
                self._faults.setdefault(index, one.fault)
        bad = [row for row, index in enumerate(views.indices.tolist()) if index in self._faults]
        if not bad:
            return _Rows(views, self._files(views, checked), [])
        return self._with_stand_ins(step, views, checked, bad)

    def _with_stand_ins(
        self, step: int, views: Views, checked: list[Checked], bad: list[int]
    ) -> _Rows:
        """The step's rows, with another image in the place of each that is `bad`."""
        images, epoch, missing = self._images, step // self._plan.steps_per_epoch, []
        indices = views.indices.copy()
        boxes = None if views.boxes is None else views.boxes.copy()
        for row in bad:
            index = int(indices[row])
            other = stand_in(images, index, self._seed, epoch, self._is_usable)
            indices[row], checked[row] = other, self._ahead.check(other)
            if boxes is not None:  # the same part of an image of another size
                boxes[row] *= np.tile(images.sizes[other] / images.sizes[index], 2)
            names = (images.path(index), self._faults[index], images.path(other))
            missing.append(BadImage(step, index, *names))
        counted = views.counted.copy()
        counted[bad] &= self._count_stand_ins
        views = views._replace(indices=indices, boxes=boxes, counted=counted)
        return _Rows(views, self._files(views, checked), missing)

    def _is_usable(self, index: int) -> bool:
        if index not in self._faults and (fault := self._ahead.check(index).fault):
            self._faults[index] = fault
        return index not in self._faults

    def _files(self, views: Views, checked: list[Checked]) -> list[NDArray[np.uint8]]:
        """Paths; or, from archives, contents."""
        images = self._images
        if images.spans is None:
            names = [images.text[images.starts[i] : images.ends[i]] for i in views.indices]
            return [np.concatenate([self._root, name]) for name in names]
        return [one.content for one in checked if one.content is not None]

    def _without_undecodable(self, step: int, error: RuntimeError) -> Any:
        """The output of a step that has failed, with stand-ins for what can't be decoded.

        MachineError where memory or a GPU failed, or the cause can't be told.
        """
        while True:
            self._blame(step, error)
            self._rows.cache_clear()
            self._pipeline = self._graph_from(step)  # one that has failed does not run again
            try:
                (images,) = self._pipeline.run()
                return images
            except RuntimeError as again:  # a stand-in that can't be decoded either
                error = again

    def _blame(self, step: int, error: RuntimeError) -> None:
        """Note which of a step's images can't be decoded; MachineError where none is to blame."""
        fault = machine_error(error)
        if fault is not None:
            raise fault from error
        indices = self._rows(step).views.indices.tolist()
        found = {index: why for index in indices if (why := self._undecodable(index))}
        if not found:
            raise MachineError(
                f"DALI failed on a batch of {len(indices)} images, each of which can be decoded "
                f"alone ({gist(error)}); rerun the command to resume"
            ) from error
        self._faults |= found

    def _undecodable(self, index: int) -> str:
        """Why an image can't be decoded; empty if it can."""
        try:
            decode(self._images.content(index))
        except MachineError:
            raise
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _to_device(self, labels: Tensor) -> Tensor:
        if self._copies is None:
            return labels
        # Unpinned memory would be copied only once the network has caught up.
        return labels.pin_memory().to(self._device, non_blocking=True)

    def _take(self, images: Any) -> Tensor:
        """The graph's output as a tensor [n, 3, crop, crop]."""
        tensor = self._copied(images)
        return tensor.permute(0, 3, 1, 2) if self._preprocessing.channels_last else tensor

    def _copied(self, images: Any) -> Tensor:
        if self._copies is None:
            return torch.from_dlpack(images.as_tensor())
        # DALI takes its GPU buffer back as soon as the host lets go of it, whatever is still queued
        # to read it. The copy is therefore finished first, on a stream of its own: this waits for
        # data, never for the network.
        with torch.cuda.stream(self._copies):
            copy = torch.from_dlpack(images.as_tensor()).clone()
        self._copies.synchronize()
        copy.record_stream(torch.cuda.current_stream(self._device))
        return copy
