"""Decode every file once, whole, with the decoder that training uses: sizes, statistics, and what can't be used."""

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import BinaryIO

import numpy as np
import nvidia.dali.experimental.dynamic as dali
from nvidia.dali import types

from pipeline.dataset import DatasetError
from pipeline.stats import STATS_SIZE, PixelSums

MAX_PIXELS = 178_956_970
"""Larger images (half a gigabyte decoded) are rejected by their header, before they can fill the memory."""

_CHUNK = 64


@dataclass
class Findings:
    """What a run of consecutive files turned out to be: `sizes[i]` is None where `reasons[i]` says why not."""

    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    sums: PixelSums | None = None


def examine(root: str, names: list[str], with_sums: bool) -> Iterator[Findings]:
    """Findings for each run of up to 64 files, in order, on all cores; `with_sums` adds the pixel statistics."""
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    # Forked from a process that has imported DALI and done nothing else: workers start at once, and safely.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, _start_worker) as pool:
        results = pool.map(_examine_chunk, [root] * len(chunks), chunks, [with_sums] * len(chunks))
        for chunk in chunks:
            try:
                yield next(results)
            except BrokenProcessPool as error:
                raise DatasetError(
                    f"{root}: the decoder died in or soon after {chunk[0]} ... {chunk[-1]}; "
                    "look for a file there that takes too much memory, and remove it"
                ) from error


_decoder_log: BinaryIO


def _start_worker() -> None:
    """Keep what the decoder prints of bad files: it belongs into the list of them, not across the progress bar."""
    global _decoder_log
    _decoder_log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
    os.dup2(_decoder_log.fileno(), sys.stderr.fileno())
    dali.set_num_threads(1)


def _examine_chunk(root: str, names: list[str], with_sums: bool) -> Findings:
    findings = Findings(sums=PixelSums() if with_sums else None)
    for name in names:
        try:
            if "\n" in name:
                raise ValueError("its name holds a line break, which a file list can't")
            pixels = decode(os.path.join(root, name))
        except (OSError, ValueError, RuntimeError) as error:
            findings.sizes.append(None)
            findings.reasons.append(_reason(error))
            continue
        findings.sizes.append((pixels.shape[0], pixels.shape[1]))
        findings.reasons.append("")
        if findings.sums is not None:
            findings.sums.add(_central_square(pixels))
    return findings


def decode(path: str) -> dali.Tensor:
    """One file as RGB [height, width, 3] uint8, upright.

    Raises OSError where it can't be read, ValueError or RuntimeError where it is no image that DALI decodes.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
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
    """One line that a person can act on, with the decoder's own words where it had any."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = _decoder_said()
    if isinstance(error, RuntimeError):
        return f"not an image that can be decoded, or cut short ({said or str(error).strip()})"
    return str(error)


def _decoder_said() -> str:
    """The last line that the decoder printed since it was last asked."""
    _decoder_log.seek(0)
    lines = _decoder_log.read().decode(errors="replace").splitlines()
    _decoder_log.seek(0)
    _decoder_log.truncate()
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).removeprefix("[ERROR] ") if lines else ""
