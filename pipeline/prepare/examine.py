"""Decode every file once, whole: sizes, statistics, and what can't be used.

The decoder is the one that training uses on a CPU.
"""

import errno
import io
import os
import re
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode import MOST_TOGETHER, Header, Undecodable, decode, decode_together, look
from pipeline.faults import MachineError, machine_error
from pipeline.parent import end_with_the_parent
from pipeline.prepare.ledger import Finding
from pipeline.prepare.sources import Source
from pipeline.prepare.store import StoreFormat, encode, resize_on_the_grid
from pipeline.stats import STATS_SIZE, PixelSums

_PIXELS_TOGETHER = 50_000_000
"""Images of a chunk are decoded together up to this many pixels: 150 MB for each process."""
_FILE_ERRORS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
"""What may be wrong with one file alone."""


Examined = tuple[list[tuple[Finding, bytes]], PixelSums | None]
"""Of a run of consecutive files: each one's finding, with the image to store, and pixel sums."""


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """A process for each core, to examine files with."""
    # Forked from a process that has imported DALI and done nothing else: they start at once. Above
    # all it has not asked for GPUs (DALI's dynamic mode would, on import): a child of a process
    # that has can't use CUDA, not even to look.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, _start_worker) as pool:
        yield pool


def examine(
    pool: ProcessPoolExecutor, source: Source, with_sums: bool, store: StoreFormat | None
) -> Iterator[Examined]:
    """What `workers` find of each run of up to 64 files, in order.

    `with_sums` adds the pixel statistics.
    """
    count = len(source.names)
    runs = (
        source.take(range(first, min(first + MOST_TOGETHER, count)))
        for first in range(0, count, MOST_TOGETHER)
    )
    most_waiting = 4 * len(os.sched_getaffinity(0))  # stored images must not pile up in memory
    waiting: deque[tuple[Source, Future[Examined]]] = deque()
    for files in runs:
        waiting.append((files, pool.submit(_examine_run, files, with_sums, store)))
        if len(waiting) > most_waiting:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _result(files: Source, future: "Future[Examined]") -> Examined:
    try:
        return future.result()
    except BrokenProcessPool as error:
        # No ValueError: what has been done so far is kept.
        raise OSError(
            f"{files.root}: a decoding process was killed in or soon after {files.names[0]} ... "
            f"{files.names[-1]}, perhaps for its memory; rerun the command to resume; if it ends "
            "here again, a file may be too large"
        ) from error


_decoder_log: BinaryIO


def _start_worker() -> None:
    """Leave GPUs alone, and catch what the decoder prints of bad files, for the list of them."""
    global _decoder_log
    # Each worker would take some hundred megabytes of the first GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    _decoder_log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
    os.dup2(_decoder_log.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)


def _examine_run(files: Source, with_sums: bool, store: StoreFormat | None) -> Examined:
    found: list[tuple[Finding, bytes]] = []
    sums = PixelSums() if with_sums else None
    ahead = _decode_together(files)
    for index, name in enumerate(files.names):
        try:
            if "\n" in name:
                raise ValueError("its name holds a line break, which a file list can't")
            data, pixels = ahead[index] if ahead else (files.content(index), None)
            finding, pixels, image = _examine_file(name, data, pixels, store)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            _raise_unless_the_file_is_at_fault(error, files, index)
            found.append((Finding(name, None, _reason(error)), b""))
            continue
        found.append((finding, image))
        if sums is not None:
            sums.add(_central_square(pixels))
    return found, sums


def _decode_together(source: Source) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Content and pixels of every file, which is cheaper than one by one.

    Nothing where one of them needs a closer look.
    """
    try:
        contents = [source.content(index) for index in range(len(source.names))]
        headers = [look(data) for data in contents]
        if sum(header.num_pixels for header in headers) > _PIXELS_TOGETHER or any(
            h.format == "GIF" for h in headers
        ):
            return []
        return list(zip(contents, decode_together(contents), strict=True))
    except (OSError, ValueError, MemoryError):
        _decoder_said()  # it will say it again of the file that it means
        return []


def _examine_file(
    name: str, data: NDArray[np.uint8], pixels: NDArray[np.uint8] | None, store: StoreFormat | None
) -> tuple[Finding, NDArray[np.uint8], bytes]:
    """What the file is, its pixels as training will see them, and the image to store.

    `pixels` is given where the file has been decoded already.
    """
    if store is None:
        pixels = decode(data) if pixels is None else pixels
        return Finding(name, pixels.shape[:2]), pixels, b""
    header = look(data)
    if pixels is None:
        pixels = _decode_even_gif(data, header)
    pixels = resize_on_the_grid(pixels, store.resize)
    finding = Finding(name, pixels.shape[:2], oddity=_oddities(name, header))
    return finding, pixels, encode(pixels, store.quality)


def _decode_even_gif(data: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """The first picture of a GIF file; any other as `decode` does."""
    if header.format != "GIF":
        return decode_together([data])[0]
    with Image.open(io.BytesIO(data.tobytes())) as image:
        return np.asarray(image.convert("RGB"))


_MODES = {
    "L": "greyscale",
    "1": "black and white",
    "P": "palette",
    "I;16": "16 bits",
    "RGBA": "transparency",
}


def _oddities(name: str, header: Header) -> str:
    """What would surprise a user of the original, in words; empty where nothing would."""
    found = []
    expected = Image.registered_extensions().get(os.path.splitext(name)[1].lower(), header.format)
    if header.format != expected:
        found.append(f"a {header.format} file")
    if header.mode != "RGB":
        found.append(_MODES.get(header.mode, header.mode))
    if header.orientation != 1:
        found.append("turned by EXIF")
    return ", ".join(found)


def _central_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The central 256x256 after a resize of the shorter side to 256 (section 2).

    torch's antialiased resize is Pillow's filter at half the cost of DALI's; the square starts on a
    whole pixel.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1)[None]
    if side != STATS_SIZE:
        square = torch.nn.functional.interpolate(
            square, (STATS_SIZE, STATS_SIZE), mode="bilinear", antialias=True
        )
    return square[0].permute(1, 2, 0).numpy()


def _raise_unless_the_file_is_at_fault(error: Exception, source: Source, index: int) -> None:
    """OSError where the disk, memory or the decoder is to blame.

    Every other file would be rejected, too.
    """
    path = f"{source.root}/{source.names[index]}"
    fault = machine_error(error)
    if fault is not None:
        raise MachineError(
            f"{fault}. It happened at {path}; if it happens there again, remove the file"
        ) from error
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _FILE_ERRORS:
        raise OSError(
            f"{path} can't be read now ({error.strerror}); rerun the command to resume, "
            "and if it ends here again, remove the file"
        ) from error
    if isinstance(error, RuntimeError):
        raise error  # a mistake of ours or of a library's, not of the file's


def _reason(error: Exception) -> str:
    """One line that a user can act on, with the decoder's own words where it had any."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = _decoder_said()
    if isinstance(error, Undecodable):
        return f"not an image that can be decoded, or cut short ({said or error})"
    return str(error)


def _decoder_said() -> str:
    """The last line that the decoder printed since it was last asked."""
    _decoder_log.seek(0)
    lines = _decoder_log.read().decode(errors="replace").splitlines()
    _decoder_log.seek(0)
    _decoder_log.truncate()
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).removeprefix("[ERROR] ") if lines else ""
