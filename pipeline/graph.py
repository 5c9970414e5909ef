"""The DALI graphs: one reads files and looks at their headers, one decodes and augments.

They are the same for GPU and CPU; nothing else knows DALI's operators.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.backend import TensorListCPU
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline as DaliPipeline

from alexnet_dali.pipeline.augmentations import Augmentation
from alexnet_dali.pipeline.system.faults import ResourceError, gist, resource_error

HW_DECODER_LOAD = 0.0
"""The share of a batch that goes to the JPEG engine of an A100 or H100.

The engine rounds differently from the CUDA decoder, and DALI gives it the largest files of a batch.
With a share between 0 and 1, a file's pixels depend on what else is in its batch, and so on how
many ranks share one. With 0, they depend on the file alone, on every GPU. With 1, they also depend
on the kind of GPU. `tools.bench pipeline` measures the alternatives.
"""

Encoded = TensorListCPU
"""The contents of n files, uint8 each."""

Request = dict[str, NDArray | Encoded]
"""What the graph is asked for: n rows under each name of `inputs`."""


class Pipeline(DaliPipeline):
    """DALI's, without a check of how it is used: that makes a class, three times for each batch."""

    _NO_CHECK: AbstractContextManager[None] = nullcontext()

    def _check_api_type_scope(self, type: object) -> AbstractContextManager[None]:
        return self._NO_CHECK


class GraphOptions(NamedTuple):
    """What decides the operators of the graph."""

    size: int  # of the images that come out, in pixels
    resample: bool  # False where all regions are cuts of whole pixels
    has_gain: bool  # images are multiplied at the end
    device_id: int | None  # of the GPU; None for the CPU
    decode_on_gpu: bool = False
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    layout: str = "CHW"
    augmentations: tuple[Augmentation, ...] = ()


def inputs(options: GraphOptions) -> list[str]:
    """Names of what a request brings for each row.

    encoded                   uint8: the file's content
    decode_start              [2] int32: where the region to decode begins, see geometry.Regions
    decode_end                [2] int32: where it ends, if resampled; else it is `size` square
    mean                      [3] float32: RGB subtracted from every pixel, less the lighting
    roi_start, roi_end        [2] float32: what the box covers of that region, where resampled
    mirrored                  int32: 1 for a flip, where not resampled
    gain                      float32: a factor for the finished image

    And what is drawn for each augmentation, by its name.
    """
    names = ["encoded", "decode_start", "mean"]
    names += ["decode_end", "roi_start", "roi_end"] if options.resample else ["mirrored"]
    names += ["gain"] if options.has_gain else []
    return names + [one.name for one in options.augmentations]


def check_names(augmentations: Sequence[Augmentation]) -> None:
    """ValueError where two inputs would have one name: the graph would get one for the other."""
    taken = {"encoded", "decode_start", "decode_end", "mean", "roi_start", "roi_end"}
    taken |= {"mirrored", "gain"}
    for one in augmentations:
        if one.name in taken:
            raise ValueError(
                f"an augmentation is named {one.name!r}, as another of the graph's inputs is; "
                f"expected a name of its own, none of {', '.join(sorted(taken))}"
            )
        taken.add(one.name)


def tensors(request: Request, options: GraphOptions) -> tuple[Encoded, ...]:
    """The request as `build` wants it; made where it is not the main thread's time."""
    found = (request[name] for name in inputs(options))
    return tuple(
        rows if isinstance(rows, TensorListCPU) else TensorListCPU(np.ascontiguousarray(rows), "")
        for rows in found
    )


def encoded(contents: Sequence[NDArray[np.uint8]]) -> Encoded:
    """Files' contents, for a request."""
    return TensorListCPU(list(contents))


def row_of(request: Request, row: int) -> Request:
    """A request for one row alone."""
    return {
        name: TensorListCPU([rows[row]]) if isinstance(rows, TensorListCPU) else rows[row : row + 1]
        for name, rows in request.items()
    }


def build(
    requests: Iterator[tuple[Encoded, ...]],
    mean_image: NDArray[np.float32] | None,
    options: GraphOptions,
    batch_size: int,
    num_threads: int,
) -> Pipeline:
    """The pipeline that answers `requests`, as `tensors` makes them, in order and ahead of time.

    It gives batches [n, 3, size, size], or [n, size, size, 3] with layout "HWC". `mean_image`
    [3, size, size] is subtracted from every crop after its flip (2012 code). With a `device_id` all
    but decoding happens on that GPU, and decoding, too, if it is asked to; without, on
    `num_threads` threads of the CPU. Requests must live until their batch is there.
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=options.device_id,
        exec_dynamic=True,
        prefetch_queue_depth=2,
    )
    with pipeline:
        names = inputs(options)
        nodes = fn.external_source(requests, num_outputs=len(names), no_copy=True)
        asked = dict(zip(names, nodes, strict=True))
        pipeline.set_outputs(augment(decode(asked, options), asked, mean_image, options))
    return _started(pipeline)


def decode(asked: dict[str, DataNode], options: GraphOptions) -> DataNode:
    """RGB regions [height, width, 3] uint8, upright."""
    square = {"shape": [options.size, options.size]}
    pixels = fn.decoders.image_slice(
        asked["encoded"],
        start=asked["decode_start"],
        **({"end": asked["decode_end"]} if options.resample else square),
        axis_names="HW",
        device="mixed" if options.decode_on_gpu else "cpu",
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does; the GPU decoder's own default is not
        hw_decoder_load=HW_DECODER_LOAD,
    )
    return pixels if options.device_id is None or options.decode_on_gpu else pixels.gpu()


def augment(
    pixels: DataNode,
    asked: dict[str, DataNode],
    mean_image: NDArray[np.float32] | None,
    options: GraphOptions,
) -> DataNode:
    """From decoded regions to what the network sees."""
    mirror: DataNode | int = 0
    if options.resample:
        # One pass resizes, crops, and flips where the region's ends are swapped.
        pixels = fn.resize(
            pixels,
            size=[options.size, options.size],
            roi_start=asked["roi_start"],
            roi_end=asked["roi_end"],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
    elif options.augmentations:  # they see flipped pixels, as where crops are resized
        pixels = fn.flip(pixels, horizontal=asked["mirrored"])
    else:
        mirror = asked["mirrored"]
    for one in options.augmentations:
        pixels = one.apply(pixels, asked[one.name])
    # Subtracting a mean of its own from each row adds its lighting at no cost.
    images = fn.crop_mirror_normalize(
        pixels,
        mean=asked["mean"],
        std=list(options.std),
        mirror=mirror,
        dtype=types.FLOAT if options.has_gain else _DTYPES[options.dtype],
        output_layout=options.layout,
    )
    on_gpu = options.device_id is not None
    if mean_image is not None:
        images = images - types.Constant(mean_image, device="gpu" if on_gpu else "cpu")
    if not options.has_gain:
        return images
    images = images * (asked["gain"].gpu() if on_gpu else asked["gain"])
    return images if options.dtype == "float32" else fn.cast(images, dtype=_DTYPES[options.dtype])


_DTYPES = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8}


def build_reader(in_archives: bool, batch_size: int, num_threads: int) -> Pipeline:
    """The pipeline that reads files and looks at their headers: for `read`."""
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=None,
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    with pipeline:
        rows = fn.external_source(name=ROWS, no_copy=True)
        if in_archives:
            words = fn.external_source(name=WORDS, no_copy=True)
            content = fn.reinterpret(rows, dtype=types.INT64)[:words]
            content = fn.reinterpret(content, dtype=types.UINT8)
        else:  # a mapped file that is cut short would end the process
            content = fn.io.file.read(rows, dont_use_mmap=True)
        pipeline.set_outputs(content, content.shape(), fn.peek_image_shape(content))
    return _started(pipeline)


ROWS, WORDS = "rows", "words"
"""Inputs of `build_reader`'s graph."""
WORD = 8
"""Bytes of a word: archives' images are cut out of their rows by words, which is faster."""


def read(
    reader: Pipeline, rows: NDArray[np.uint8], words: NDArray[np.int32] | None
) -> tuple[Encoded, NDArray[np.int64], NDArray[np.int64]]:
    """Contents of n files, their lengths [n], and [n, 2] height and width that their headers say.

    `rows` [n, width] are their paths, padded with zeros. From archives they are the contents, of
    which the first `words` [n] are to be used. A file that can't be read, or has no header, ends
    the pipeline with RuntimeError.
    """
    reader.feed_input(ROWS, TensorListCPU(rows, ""))
    if words is not None:
        reader.feed_input(WORDS, TensorListCPU(words, ""))
    content, lengths, shapes = reader.run()
    return content, np.asarray(lengths.as_tensor())[:, 0], np.asarray(shapes.as_tensor())[:, :2]


FILES = "files"
"""The input of `build_decoder`'s graph: files' contents."""


def build_decoder(batch_size: int) -> Pipeline:
    """The pipeline that decodes whole files on one thread of the CPU.

    It gives RGB [height, width, 3] uint8, upright, and the shapes that headers say.
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
        pixels = fn.decoders.image(files, device="cpu", output_type=types.RGB)
        pipeline.set_outputs(pixels, fn.peek_image_shape(files))
    return _started(pipeline)


def _started(pipeline: Pipeline) -> Pipeline:
    """The pipeline with its threads; ResourceError where there is no room for them."""
    try:
        pipeline.build()
    except RuntimeError as error:
        raise resource_error(error) or ResourceError(
            f"DALI can't start ({gist(error)}); see what else runs here (free -h, ulimit -a)"
        ) from error
    return pipeline
