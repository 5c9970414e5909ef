"""The DALI graph, one for GPU and CPU: files and regions in, mean-subtracted CHW floats out."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline


class Request(NamedTuple):
    """What the graph is asked for: a batch of n crops, sample by sample."""

    paths: list[NDArray[np.uint8]]  # [n] bytes of the file's path
    decode_start: NDArray[np.int32]  # [n, 2] see geometry.Regions
    decode_end: NDArray[np.int32]
    start: NDArray[np.float32]
    end: NDArray[np.float32]
    colour_shift: NDArray[np.float32]  # [n, 3] RGB added to every pixel: lighting noise


def build(
    requests: Iterator[Request],
    mean_image: NDArray[np.float32],
    size: int,
    batch_size: int,
    device_id: int | None,
    num_threads: int,
) -> Pipeline:
    """The pipeline that answers `requests` in order, ahead of time, with float batches [n, 3, size, size].

    `mean_image` [3, size, size] is subtracted from every crop after its flip (2012 code). With a `device_id` the
    files are decoded and all that follows happens on that GPU; with None, on `num_threads` threads of the CPU.
    """
    pipeline = Pipeline(
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, exec_dynamic=True, prefetch_queue_depth=2
    )
    on_gpu = device_id is not None
    with pipeline:
        pipeline.set_outputs(crops(requests, mean_image, size, on_gpu))
    return pipeline


def crops(requests: Iterator[Request], mean_image: NDArray[np.float32], size: int, on_gpu: bool) -> DataNode:
    """The graph itself, defined inside a pipeline: from requests to float batches."""
    path, decode_start, decode_end, start, end, colour_shift = fn.external_source(requests, num_outputs=6)
    pixels = fn.decoders.image_slice(
        fn.io.file.read(path),
        start=decode_start,
        end=decode_end,
        axis_names="HW",
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does; the GPU decoder's own default is not
    )
    # One pass resizes, crops, and flips where the region's ends are swapped.
    pixels = fn.resize(
        pixels, size=[size, size], roi_start=start, roi_end=end, interp_type=types.INTERP_LINEAR, antialias=True
    )
    # Subtracting a mean of its own from each sample adds its lighting at no cost.
    images = fn.crop_mirror_normalize(pixels, mean=-colour_shift, dtype=types.FLOAT, output_layout="CHW")
    return images - types.Constant(mean_image, device="gpu" if on_gpu else "cpu")
