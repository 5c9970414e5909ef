"""Runs the graph over a plan and hands out tensors; where a file can't be read, names it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
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
from pipeline.geometry import on_the_grid, source_regions
from pipeline.plan import Plan, Views
from pipeline.stats import PixelStats

NOT_COUNTED = -1
"""The label of rows that only fill up the last batch of an evaluation."""


class Batch(NamedTuple):
    """Part of a global batch, on its device."""

    images: Tensor  # [n, 3, crop, crop] float32, mean-subtracted RGB
    labels: Tensor  # [n] int64 class index, or NOT_COUNTED


@dataclass(frozen=True)
class Appearance:
    """From pixels to network input: sizes, mean and lighting.

    The shorter side is resized to `resize` and the crop is `crop` pixels square. `mean_image`
    [crop, crop, 3] is subtracted; lighting adds `directions` [3, 3] times three normal draws
    (paper, section 4.1) to every pixel, and multiplies images that it is added to by `lit_gain`
    (2012 code).
    """

    resize: int
    crop: int
    mean_image: NDArray[np.float32]
    directions: NDArray[np.float64]
    lit_gain: float = 1.0

    @classmethod
    def of(
        cls,
        stats: PixelStats,
        resize: int,
        crop: int,
        mean: str,
        lighting_std: float,
        lit_gain: float = 1.0,
    ) -> "Appearance":
        """`mean` is "image" (per pixel, as in the paper) or "channel"; `lighting_std` 0 switches
        lighting off.
        """
        square = stats.mean_at(resize)
        if mean == "channel":
            square = np.broadcast_to(stats.channel_mean.astype(np.float32), square.shape)
        edge = (resize - crop) // 2
        centre = square[edge : edge + crop, edge : edge + crop]
        return cls(resize, crop, centre, lighting_std * stats.lighting_directions(), lit_gain)


class Loader:
    """Iterates over the batches of a plan from `first_step` on, preparing the next ones while one
    is being used.
    """

    def __init__(
        self,
        images: ImageList,
        plan: Plan,
        appearance: Appearance,
        *,
        part: int,
        num_parts: int,
        batch_size: int,
        device: torch.device,
        num_threads: int,
        first_step: int = 0,
    ) -> None:
        """This rank is `part` of `num_parts`; `batch_size` is what falls to it."""
        self._images, self._plan, self._appearance = images, plan, appearance
        # A step's views are wanted when its files are read ahead, when they are asked for, and when
        # they arrive.
        self._views = lru_cache(maxsize=8)(lambda step: plan.views(step, part, num_parts))
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._first_step = first_step
        self._root = np.frombuffer(os.fsencode(os.path.join(images.root, "")), np.uint8)
        self._archives = Archives()
        self._form = graph.Form(
            appearance.crop,
            in_archives=images.spans is not None,
            resample=not on_the_grid(images.sizes, appearance.resize),
            has_gain=appearance.lit_gain != 1,
            on_gpu=device.type == "cuda",
        )
        self._pipeline = graph.build(
            (self.request(step) for step in range(first_step, plan.num_steps)),
            np.ascontiguousarray(appearance.mean_image.transpose(2, 0, 1)),
            self._form,
            batch_size,
            device.index if device.type == "cuda" else None,
            num_threads,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order. DatasetError names the file that can't be read or decoded; MachineError
        blames none.
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
        images, appearance, resample = self._images, self._appearance, self._form.resample
        views = self._views(step)
        if images.spans is None:
            files = [
                np.concatenate([self._root, images.text[images.starts[i] : images.ends[i]]])
                for i in views.indices
            ]
        else:
            files = [self._archives.read(*images.archive(i)) for i in views.indices]
            if step + 1 < self._plan.num_steps:
                for i in self._views(step + 1).indices:
                    self._archives.read_ahead(*images.archive(i))
        regions = source_regions(
            images.sizes[views.indices],
            views.corners,
            views.mirrored,
            appearance.resize,
            appearance.crop,
            resample,
        )
        flip = (regions.start, regions.end) if resample else (views.mirrored.astype(np.int32),)
        shift = views.lighting @ appearance.directions.T.astype(np.float32)
        lit = views.lighting.any(axis=1)
        gain = (
            (np.where(lit, appearance.lit_gain, 1).astype(np.float32),)
            if self._form.has_gain
            else ()
        )
        return graph.Request(files, regions.decode_start, regions.decode_end, shift, flip, gain)

    def _to_device(self, labels: Tensor) -> Tensor:
        if self._copies is None:
            return labels
        return labels.pin_memory().to(
            self._device, non_blocking=True
        )  # unpinned, it would wait for the network

    def _take(self, images: Any) -> Tensor:
        """The graph's output as a tensor."""
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
        """Why the graph failed: the machine, or the file that can't be used, or neither that can be
        told.
        """
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
            f"alone ({gist(error)}); the same command goes on from what is saved"
        )
