"""Decode every file once, whole: sizes, statistics, and what can't be used.

The decoder is the one that training uses on a CPU. Whatever it says of a JPEG file counts, even
where it goes on; files of other kinds are checked against Pillow.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.decode import (
    MOST_TOGETHER,
    Header,
    Undecodable,
    a_file,
    decode,
    decode_together,
    formats_by_suffix,
    look,
)
from alexnet_dali.pipeline.prepare import pillow
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.store import (
    StoreFormat,
    encode,
    resize_on_the_grid,
    tar_entry,
    write_file,
)
from alexnet_dali.pipeline.stats import STATS_SIZE, PixelSums
from alexnet_dali.pipeline.system.faults import ResourceError, resource_error, the_files_own

_PIXELS_TOGETHER = 50_000_000
"""Images of a run are decoded together up to this many pixels: 150 MB for each process."""

_ROUNDING = 1
"""Levels by which two sound decoders may differ."""

_HARMLESS = re.compile(r"unknown JFIF revision")
"""What libjpeg says that is not of the pixels."""


class Examined(NamedTuple):
    """Of consecutive files: what was found, what is to be stored of usable ones, and pixel sums."""

    found: Findings
    stored: list[bytes]
    sums: PixelSums | None

    def merged_with(self, later: "Examined") -> "Examined":
        """The same of these files and of those that follow them."""
        if self.sums is not None and later.sums is not None:
            self.sums.merge(later.sums)
        found = self.found.followed_by(later.found)
        return Examined(found, self.stored + later.stored, self.sums)


@dataclass(frozen=True)
class Task:
    """Consecutive files to examine, with their pixel sums or without, and how to store them.

    Stored images are written below `folder`, or come back where there is none: as entries of a tar
    file where the store has shards.
    """

    files: Source
    with_sums: bool
    store: StoreFormat | None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.files.names)

    def halves(self) -> "tuple[Task, Task]":
        """The task in two, in order."""
        middle = len(self) // 2
        return (
            replace(self, files=self.files.take(range(middle))),
            replace(self, files=self.files.take(range(middle, len(self)))),
        )

    def run(self) -> Examined:
        """Examine the files; ResourceError or OSError where no file is to blame."""
        found, stored = Findings.none(len(self)), []
        sums = PixelSums() if self.with_sums else None
        for index in range(len(self)):  # before they are read
            found.rows["stamp"][index] = self.files.stamp(index)
        ahead = _open_together(self.files)
        for index in range(len(self)):
            try:
                _decoder_said()  # of the file before
                if "\n" in self.files.listed_name(index):
                    raise ValueError("its name holds a line break, which a file list can't")
                opened = ahead[index] if ahead else _open_alone(self.files, index, self.store)
                self._check_was_there(found.rows[index])
                pixels, image = _as_trained(opened.pixels, self.store)
            except (OSError, ValueError, RuntimeError, MemoryError) as error:
                _raise_unless_the_file_is_at_fault(error, self.files, index)
                found.remarks[index] = _reason(error)
                continue
            found.rows["size"][index] = pixels.shape[:2]
            found.rows["length"][index] = found.rows["stamp"][index, 0]
            if self.store is not None:
                if oddities := _oddities(self.files.names[index], opened.header):
                    found.remarks[index] = oddities
                stored += self._keep(index, image, found.rows[index])
            if sums is not None:
                sums.add(_central_square(pixels))
        return Examined(found, stored, sums)

    def _check_was_there(self, row: np.void) -> None:
        """A list of files of their own needs the size of each."""
        if self.files.places is None and row["stamp"][0] < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _keep(self, index: int, image: bytes, row: np.void) -> list[bytes]:
        """Store an image, or return what is to be stored of it; its row gets the place."""
        assert self.store is not None
        row["length"] = len(image)
        name = self.files.stored_name(index)
        if self.store.shards:
            entry, offset = tar_entry(name, self.files.labels[index], image)
            row["span"] = offset, len(image)
            return [entry]
        if self.folder is None:
            return [image]
        write_file(self.folder, name, image)
        return []


def tasks(
    source: Source,
    order: Sequence[int] | NDArray[np.int64],
    with_sums: bool = False,
    store: StoreFormat | None = None,
    folder: Path | None = None,
) -> Iterator[Task]:
    """The files in `order`, in runs of up to 64, which are decoded together where possible."""
    for first in range(0, len(order), MOST_TOGETHER):
        files = source.take(order[first : first + MOST_TOGETHER])
        yield Task(files, with_sums, store, folder)


def crashed(task: Task, how: str) -> Examined:
    """What is found of a task whose one file kills the decoder."""
    found = Findings.none(1)
    found.rows["stamp"] = task.files.stamp(0)
    found.remarks[0] = f"the decoder crashes on it ({how})"
    return Examined(found, [], PixelSums() if task.with_sums else None)


def why_not_decoded(source: Source, index: int, store: StoreFormat | None) -> str:
    """Why a file can't be used, as far as its header says; empty where nothing speaks against it.

    Nor is there a reason where it can't be read now, for which it is not to blame.
    """
    try:
        unlike = look(source.content(index)).unlike
    except OSError as error:
        own = error.errno is None or the_files_own(error)
        return error.strerror or str(error) if own else ""
    except ValueError as error:
        return str(error)
    except MemoryError:
        return ""
    return "" if store is not None else unlike


class _Opened(NamedTuple):
    """A sound file: what its header says, and its pixels [height, width, 3] as RGB, upright."""

    header: Header
    pixels: NDArray[np.uint8]


def _open_together(source: Source) -> list[_Opened]:
    """Every file, which is cheaper than one by one.

    Nothing where one of them needs a closer look.
    """
    try:
        contents = [source.content(index) for index in range(len(source.names))]
        headers = [look(data) for data in contents]
        too_many = sum(header.num_pixels for header in headers) > _PIXELS_TOGETHER
        if too_many or any(header.unlike for header in headers):
            return []
        pixels = decode_together(contents)
        if _decoder_said():
            return []
        for data, header, image in zip(contents, headers, pixels, strict=True):
            if header.is_plain_jpeg():
                _check_shape(image, header)
            elif not _alike(image, pillow.decode(data)):
                return []
        return [_Opened(*pair) for pair in zip(headers, pixels, strict=True)]
    except (OSError, ValueError, MemoryError):
        _decoder_said()  # it will say it again of the file that it means
        return []


def _open_alone(source: Source, index: int, store: StoreFormat | None) -> _Opened:
    """A file, if nothing speaks against it: a decoder's word, or another decoder.

    Kinds that DALI does not decode as others do are taken where a `store` converts them.
    """
    data = source.content(index)
    header = look(data)
    if not header.unlike:
        others = None if header.is_plain_jpeg() else pillow.decode(data)
        (pixels,) = decode_together([data])
        said = _decoder_said()
        if said and header.format == "JPEG":  # of others, it remarks on what is not of pixels
            raise ValueError(f"damaged: the decoder says '{said}'")
        if others is None:
            _check_shape(pixels, header)
        elif not _alike(pixels, others):
            pixels = _turned_otherwise(pixels, others, store)
    elif store is not None:
        pixels = pillow.decode(data)
        if header.format == "JPEG":  # only to hear its warnings, which Pillow does not pass on
            decode_together([_without_exif(data)])
        said = _decoder_said()
        if said and "Warning" not in said:
            raise ValueError(f"damaged: the decoder says '{said}'")
    else:
        pixels = decode(data)  # which says why not
    return _Opened(header, pixels)


def _without_exif(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A JPEG file without its APP1 segments, of which several make decoders differ, or crash."""
    content = data.tobytes()
    kept, place = [content[:2]], 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        marker = content[place + 1 : place + 2]
        end = place + 1
        if marker != b"\xff":  # which fills up
            end += 1 + int.from_bytes(content[place + 2 : place + 4], "big")
        if marker != b"\xe1":
            kept.append(content[place:end])
        place = end
    return np.frombuffer(b"".join([*kept, content[place:]]), np.uint8)


def _check_shape(pixels: NDArray[np.uint8], header: Header) -> None:
    """ValueError unless they are as many as the header says."""
    height, width = pixels.shape[:2]
    if (height, width) != (header.height, header.width):
        raise ValueError(
            f"damaged: its header says {header.width}x{header.height} pixels, and DALI decodes "
            f"{width}x{height}"
        )


def _alike(pixels: NDArray[np.uint8], others: NDArray[np.uint8]) -> bool:
    """Whether two decoders see the same."""
    if pixels.shape != others.shape:
        return False
    return bool(np.abs(pixels.astype(np.int16) - others).max() <= _ROUNDING)


def _turned_otherwise(
    pixels: NDArray[np.uint8], others: NDArray[np.uint8], store: StoreFormat | None
) -> NDArray[np.uint8]:
    """Pillow's pixels, if DALI's are the same in another orientation; ValueError if not."""
    turns = [np.rot90(side, turn) for side in (pixels, pixels[:, ::-1]) for turn in range(4)]
    if not any(_alike(turned, others) for turned in turns):
        raise ValueError("damaged, or of a rare kind: DALI and Pillow decode it to other pixels")
    if store is None:
        raise ValueError(
            "DALI turns it otherwise than Pillow, by metadata that they read in different ways; "
            "--resize would store it as JPEG, turned as in Pillow"
        )
    return others


def _as_trained(
    pixels: NDArray[np.uint8], store: StoreFormat | None
) -> tuple[NDArray[np.uint8], bytes]:
    """A file's pixels as training will see them, and the image to store."""
    if store is None:
        return pixels, b""
    pixels = resize_on_the_grid(pixels, store.resize)
    return pixels, encode(pixels, store.quality)


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
    expected = formats_by_suffix().get(os.path.splitext(name)[1].lower(), header.format)
    if header.unlike:
        found.append(header.unlike)
    elif header.format != expected:
        found.append(a_file(header.format))
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
    import torch  # noqa: PLC0415 - here, as the process that starts workers does without it

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
    path = f"{source.root}/{source.listed_name(index)}"
    fault = resource_error(error)
    if fault is not None:
        raise ResourceError(
            f"{fault}. It happened at {path}; if it happens there again, remove the file"
        ) from error
    if isinstance(error, OSError) and error.errno is not None and not the_files_own(error):
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


_decoder_log: BinaryIO


def catch_what_the_decoder_says(stream: int) -> None:
    """In a worker: what is written to the file descriptor `stream` goes to a log from now on."""
    global _decoder_log
    _decoder_log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
    os.dup2(_decoder_log.fileno(), stream)


def _decoder_said() -> str:
    """The last line of weight that the decoder printed since it was last asked."""
    _decoder_log.seek(0)
    text = re.sub(r"\x1b\[[0-9;]*m", "", _decoder_log.read().decode(errors="replace"))
    _decoder_log.seek(0)
    _decoder_log.truncate()
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _HARMLESS.search(line)]
    return lines[-1].removeprefix("[ERROR] ") if lines else ""
