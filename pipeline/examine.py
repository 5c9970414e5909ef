"""Decode every file once, whole, with the decoder that training uses: sizes, statistics, and what can't be used."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np
import nvidia.dali.experimental.dynamic as dali
from nvidia.dali import types

from pipeline.stats import STATS_SIZE, PixelSums

MAX_PIXELS = 178_956_970
"""Larger images (half a gigabyte decoded) are rejected by their header, before they can fill the memory."""

_CHUNK = 64


@dataclass
class Findings:
    """What a run of consecutive files turned out to be: `sizes[i]` is None where `reasons[i]` says why not."""

    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    sums: PixelSums = field(default_factory=PixelSums)


def examine(root: str, names: list[str], with_sums: bool) -> Iterator[Findings]:
    """Findings for each run of up to 64 files, in order, on all cores; `with_sums` adds the pixel statistics."""
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    workers = min(len(os.sched_getaffinity(0)), len(chunks))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_examine_chunk, [root] * len(chunks), chunks, [with_sums] * len(chunks))


def _examine_chunk(root: str, names: list[str], with_sums: bool) -> Findings:
    dali.set_num_threads(1)
    findings = Findings()
    for name in names:
        try:
            pixels = decode(os.path.join(root, name))
            if "\n" in name:
                raise ValueError("its name holds a line break, which a file list can't")
        except (OSError, ValueError, RuntimeError) as error:
            findings.sizes.append(None)
            findings.reasons.append(_reason(error))
            continue
        findings.sizes.append((pixels.shape[0], pixels.shape[1]))
        findings.reasons.append("")
        if with_sums:
            findings.sums.add(_central_square(pixels))
    return findings


def decode(path: str) -> dali.Tensor:
    """One file as RGB [height, width, 3] uint8, upright.

    Raises OSError where it can't be read, ValueError or RuntimeError where it is no image that DALI decodes.
    """
    data = np.fromfile(path, np.uint8)
    if not len(data):
        raise ValueError("the file is empty")
    height, width = np.asarray(dali.peek_image_shape(data))[:2]
    if int(height) * int(width) > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels; {MAX_PIXELS} in all is the most that is taken")
    return dali.decoders.image(data, device="cpu", output_type=types.RGB).evaluate()


def _central_square(pixels: dali.Tensor) -> np.ndarray:
    """The central 256x256 after a resize of the shorter side to 256, as training sees it (paper, section 2)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    square = dali.resize(
        pixels,
        size=[STATS_SIZE, STATS_SIZE],
        roi_start=[top, left],
        roi_end=[top + side, left + side],
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
    return np.asarray(square)


def _reason(error: Exception) -> str:
    """One line that a person can act on."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "nvImageCodec failure" in text or "Failed to decode" in text or "parse" in text:
        return f"not an image that can be decoded, or cut short ({text.rstrip(' :')})"
    return text
