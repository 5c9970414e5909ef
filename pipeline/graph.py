"""The DALI graph, one for GPU and CPU: files and regions in, mean-subtracted CHW floats out."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

HW_DECODER_LOAD = 0.0
"""The share of a batch that goes to the JPEG engine of an A100 or H100.

The engine rounds otherwise than the CUDA decoder, and DALI gives it the largest files of a batch.
With a share between 0 and 1 a file's pixels depend on what else is in its batch, and so on how many
ranks share one. With 0 they depend on the file alone, on every GPU; with 1, on the kind of GPU,
too. `tools.bench pipeline` measures the alternatives.
"""


class Request(NamedTuple):
    """What the graph is asked for: a batch of n crops, sample by sample."""

    files: list[
        NDArray[np.uint8]
    ]  # [n] the file's path, or its content where the graph reads from archives
    decode_start: NDArray[np.int32]  # [n, 2] see geometry.Regions
    decode_end: NDArray[np.int32]
    colour_shift: NDArray[np.float32]  # [n, 3] RGB added to every pixel: lighting noise
    flip: tuple[
        NDArray, ...
    ]  # start and end of geometry.Regions; without resampling, [n] int32 mirrored
    gain: tuple[
        NDArray, ...
    ]  # [n] float32 that multiplies the finished image, where the form has gains


class Form(NamedTuple):
    """Which of its forms the graph takes."""

    size: int  # of the crop, in pixels
    in_archives: bool  # requests bring the files' content, not their paths
    resample: bool  # False where the stored pixels are those of the crop: pipeline.prepare.store
    has_gain: bool
    on_gpu: bool


def build(
    requests: Iterator[Request],
    mean_image: NDArray[np.float32],
    form: Form,
    batch_size: int,
    device_id: int | None,
    num_threads: int,
) -> Pipeline:
    """The pipeline that answers `requests` in order, ahead of time, with float batches [n, 3, size,
    size].

    `mean_image` [3, size, size] is subtracted from every crop after its flip (2012 code). With a
    `device_id` the files are decoded and all that follows happens on that GPU; with None, on
    `num_threads` threads of the CPU.
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
        exec_dynamic=True,
        prefetch_queue_depth=2,
    )
    with pipeline:
        pipeline.set_outputs(crops(requests, mean_image, form))
    return pipeline


FILES = "files"
"""The input of `build_decoder`'s graph: files' contents."""


def build_decoder(batch_size: int) -> Pipeline:
    """The pipeline that decodes files whole, on one thread of the CPU, as RGB [height, width, 3]
    uint8, upright.
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=1,
        device_id=None,
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    with pipeline:
        files = fn.external_source(name=FILES, no_copy=True)
        pipeline.set_outputs(fn.decoders.image(files, device="cpu", output_type=types.RGB))
    pipeline.build()
    return pipeline


def crops(requests: Iterator[Request], mean_image: NDArray[np.float32], form: Form) -> DataNode:
    """The graph itself, defined inside a pipeline: from requests to float batches."""
    flat = ((*request[:4], *request.flip, *request.gain) for request in requests)
    num_outputs = 5 + form.resample + form.has_gain
    file, decode_start, decode_end, colour_shift, *flip = fn.external_source(
        flat, num_outputs=num_outputs
    )
    gain = flip.pop() if form.has_gain else None
    pixels = fn.decoders.image_slice(
        file if form.in_archives else fn.io.file.read(file),
        start=decode_start,
        end=decode_end,
        axis_names="HW",
        device="mixed" if form.on_gpu else "cpu",
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does; the GPU decoder's own default is not
        hw_decoder_load=HW_DECODER_LOAD,
    )
    mirror = 0 if form.resample else flip[0]
    if form.resample:
        # One pass resizes, crops, and flips where the region's ends are swapped.
        pixels = fn.resize(
            pixels,
            size=[form.size, form.size],
            roi_start=flip[0],
            roi_end=flip[1],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
    # Subtracting a mean of its own from each sample adds its lighting at no cost.
    images = fn.crop_mirror_normalize(
        pixels, mean=-colour_shift, mirror=mirror, dtype=types.FLOAT, output_layout="CHW"
    )
    images = images - types.Constant(mean_image, device="gpu" if form.on_gpu else "cpu")
    if gain is None:
        return images
    return images * (gain.gpu() if form.on_gpu else gain)
