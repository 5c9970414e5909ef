"""Runs the graph over a plan and hands out tensors; names a file that can't be read."""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import graph
from pipeline.archives import Archives
from pipeline.dataset import DatasetError, ImageList
from pipeline.decode import decode
from pipeline.faults import MachineError, gist, machine_error
from pipeline.geometry import box_regions, on_the_grid, source_regions
from pipeline.plan import Plan, Views
from pipeline.preprocessing import Preprocessing

_CPU = torch.device("cpu")
NOT_COUNTED = -1
"""The label of rows that only fill up the last batch of an evaluation."""


class Batch(NamedTuple):
    """Part of a global batch, on its device."""

    images: Tensor  # [n, 3, crop, crop] float32 by default, mean-subtracted RGB
    labels: Tensor  # [n] int64 class index, or NOT_COUNTED


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
    ) -> None:
        """Without `num_threads`, a thread for each core decodes."""
        self._images, self._plan, self._preprocessing = images, plan, preprocessing
        self._device, self._first_step = device, first_step
        # Each step's views are needed to read files ahead, to ask for them, and when they arrive.
        self._views = lru_cache(maxsize=8)(lambda step: plan.views(step, part, num_parts))
        on_gpu = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if on_gpu else None
        self._root = np.frombuffer(os.fsencode(os.path.join(images.root, "")), np.uint8)
        self._archives = Archives()
        has_boxes = self._views(first_step).boxes is not None
        self._resample = has_boxes or not on_the_grid(images.sizes, preprocessing.resize)
        self._has_gain = preprocessing.lit_gain != 1

        in_archives = images.spans is not None
        options = graph.GraphOptions(
            preprocessing.crop,
            in_archives,
            self._resample,
            self._has_gain,
            on_gpu,
            preprocessing.std,
            preprocessing.dtype,
            "HWC" if preprocessing.channels_last else "CHW",
        )
        mean = preprocessing.mean_image
        self._pipeline = graph.build(
            (self.request(step) for step in range(first_step, plan.num_steps)),
            None if mean is None else np.ascontiguousarray(mean.transpose(2, 0, 1)),
            options,
            plan.batch_size // num_parts,
            device.index if on_gpu else None,
            num_threads or len(os.sched_getaffinity(0)),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order.

        DatasetError names a file that can't be read or decoded; MachineError blames none.
        """
        for step in range(self._first_step, self._plan.num_steps):
            views = self._views(step)
            try:
                (images,) = self._pipeline.run()
            except RuntimeError as error:
                raise self._explained(views, error) from error
            labels = np.where(views.counted, self._images.labels[views.indices], NOT_COUNTED)
            yield Batch(self._take(images), self._to_device(torch.from_numpy(labels)))

    def request(self, step: int) -> graph.Request:
        """What the graph is asked for: this rank's rows of a step."""
        images, preprocessing, views = self._images, self._preprocessing, self._views(step)
        sizes, crop = images.sizes[views.indices], preprocessing.crop
        if views.boxes is not None:
            regions = box_regions(sizes, views.boxes, views.mirrored, crop)
        else:
            regions = source_regions(
                sizes, views.corners, views.mirrored, preprocessing.resize, crop, self._resample
            )
        lighting = views.lighting @ preprocessing.directions.T.astype(np.float32)
        request: graph.Request = {
            "file": self._files(step),
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

    def _files(self, step: int) -> list[NDArray[np.uint8]]:
        """Paths; or, from archives, contents. The next files in archives are then read ahead."""
        images, indices = self._images, self._views(step).indices
        if images.spans is None:
            names = [images.text[images.starts[i] : images.ends[i]] for i in indices]
            return [np.concatenate([self._root, name]) for name in names]
        files = [self._archives.read(*images.archive(i)) for i in indices]
        if step + 1 < self._plan.num_steps:
            for i in self._views(step + 1).indices:
                self._archives.read_ahead(*images.archive(i))
        return files

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

    def _explained(self, views: Views, error: RuntimeError) -> Exception:
        """Why the graph failed: the machine, a file, or a cause that can't be told."""
        fault = machine_error(error)
        if fault is not None:
            return fault
        for index in views.indices:
            path = self._images.path(int(index))
            try:
                height, width = decode(self._images.content(int(index))).shape[:2]
            except MachineError as cause:
                return cause
            except (OSError, ValueError) as cause:
                return DatasetError(
                    f"{path} can't be used any more ({cause}); "
                    "restore the file, or prepare the folder again with tools/prep_imagenet.py"
                )
            if [height, width] != self._images.sizes[index].tolist():
                expected = "x".join(map(str, self._images.sizes[index][::-1]))
                return DatasetError(
                    f"{path} is {width}x{height} pixels, but was {expected} when the lists were "
                    "made; prepare the folder again with tools/prep_imagenet.py"
                )
        return MachineError(
            f"DALI failed on a batch of {len(views.indices)} images, each of which can be decoded "
            f"alone ({gist(error)}); rerun the command to resume"
        )
