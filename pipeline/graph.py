"""The DALI graph, one for GPU and CPU: files and regions in, mean-subtracted CHW floats out."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

HW_DECODER_LOAD = 0.0
"""The share of a batch that goes to the JPEG engine of an A100 or H100.

The engine rounds differently from the CUDA decoder, and DALI gives it the largest files of a batch.
With a share between 0 and 1, a file's pixels depend on what else is in its batch, and so on how
many ranks share one. With 0, they depend on the file alone, on every GPU. With 1, they also depend
on the kind of GPU. `tools.bench pipeline` measures the alternatives.
"""


Request = dict[str, Sequence[NDArray] | NDArray]
"""What the graph is asked for: an item for each sample of a batch, under each name of `inputs`."""


class GraphOptions(NamedTuple):
    """What decides the operators of the graph."""

    size: int  # of the crop, in pixels
    in_archives: bool  # requests bring the files' contents, not their paths
    resample: bool  # False where stored pixels are those of the crop: pipeline/prepare/store.py
    has_gain: bool  # images are multiplied at the end
    on_gpu: bool
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    layout: str = "CHW"


def inputs(options: GraphOptions) -> list[str]:
    """Names of what a request brings for each sample.

    file                      uint8: the path, or the content where it lies in an archive
    decode_start, decode_end  [2] int32: the region to decode, see geometry.Regions
    shift                     [3] float32: RGB added to every pixel, the lighting
    roi_start, roi_end        [2] float32: what the crop covers of that region, where resampled
    mirrored                  int32: 1 for a flip, where not resampled
    gain                      float32: a factor for the finished image
    """
    names = ["file", "decode_start", "decode_end", "shift"]
    names += ["roi_start", "roi_end"] if options.resample else ["mirrored"]
    return [*names, "gain"] if options.has_gain else names


def build(
    requests: Iterator[Request],
    mean_image: NDArray[np.float32] | None,
    options: GraphOptions,
    batch_size: int,
    device_id: int | None,
    num_threads: int,
) -> Pipeline:
    """The pipeline that answers `requests` in order, ahead of time.

    It gives batches [n, 3, size, size], or [n, size, size, 3] with layout "HWC". `mean_image`
    [3, size, size] is subtracted from every crop after its flip (2012 code). With a `device_id` the
    files are decoded and all that follows happens on that GPU; with None, on `num_threads` threads
    of the CPU.
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
        exec_dynamic=True,
        prefetch_queue_depth=2,
    )
    with pipeline:
        pipeline.set_outputs(crops(requests, mean_image, options))
    return pipeline


_DTYPES = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8}

FILES = "files"
"""The input of `build_decoder`'s graph: files' contents."""


def build_decoder(batch_size: int) -> Pipeline:
    """The pipeline that decodes whole files on one thread of the CPU.

    It gives RGB [height, width, 3] uint8, upright.
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


def crops(
    requests: Iterator[Request], mean_image: NDArray[np.float32] | None, options: GraphOptions
) -> DataNode:
    """The graph itself, defined inside a pipeline: from requests to float batches."""
    names = inputs(options)
    rows = (tuple(request[name] for name in names) for request in requests)
    node = dict(zip(names, fn.external_source(rows, num_outputs=len(names)), strict=True))

    pixels = fn.decoders.image_slice(
        node["file"] if options.in_archives else fn.io.file.read(node["file"]),
        start=node["decode_start"],
        end=node["decode_end"],
        axis_names="HW",
        device="mixed" if options.on_gpu else "cpu",
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does; the GPU decoder's own default is not
        hw_decoder_load=HW_DECODER_LOAD,
    )
    if options.resample:
        # One pass resizes, crops, and flips where the region's ends are swapped.
        pixels = fn.resize(
            pixels,
            size=[options.size, options.size],
            roi_start=node["roi_start"],
            roi_end=node["roi_end"],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )

    # Subtracting a mean of its own from each sample adds its lighting at no cost.
    images = fn.crop_mirror_normalize(
        pixels,
        mean=-node["shift"],
        std=list(options.std),
        mirror=0 if options.resample else node["mirrored"],
        dtype=_DTYPES[options.dtype],
        output_layout=options.layout,
    )
    if mean_image is not None:
        images = images - types.Constant(mean_image, device="gpu" if options.on_gpu else "cpu")
    if not options.has_gain:
        return images
    return images * (node["gain"].gpu() if options.on_gpu else node["gain"])
