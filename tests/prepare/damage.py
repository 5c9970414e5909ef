"""Sound files of every kind, thousands of ways to damage them, and what decoders make of those.

    python -m tests.prepare.damage 300

prints a table, which docs/prepare.md sums up, from so many files of each kind.
"""

import io
import multiprocessing
import os
import random
import sys
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from alexnet_dali.pipeline.decode import decode
from alexnet_dali.pipeline.prepare.examine import tasks
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.tools.tables import records

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 85}),
    "JPEG, progressive": ("JPEG", {"quality": 85, "progressive": True}),
    "JPEG, restart markers": ("JPEG", {"quality": 85, "restart_marker_blocks": 4}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 85}),
    "WebP, lossless": ("WEBP", {"lossless": True}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "PNM": ("PPM", {}),
    "JPEG 2000": ("JPEG2000", {}),
}


WAYS = ("byte", "bytes", "header", "cut", "marker", "swap", "zeros", "insert", "drop")


class Opinion(NamedTuple):
    """What other decoders make of a file, and how far they are from what training would see."""

    pillow: bool  # decodes it
    strict: bool  # decodes it without a complaint: libjpeg for JPEG files, else Pillow
    difference: int | None  # largest, in levels; None where one of the two has no pixels

    def agrees(self) -> bool:
        """Whether a strict decoder sees what training would, but for rounding."""
        return self.difference is not None and self.difference <= 1


def sound_files(kind: str, count: int) -> list[bytes]:
    """Noisy pictures of different sizes: noise makes most of a file's bytes matter."""
    format_name, options = KINDS[kind]
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize((90 + 7 * number, 70 + 5 * number)), np.int64)
        noisy = (picture + rng.integers(-20, 20, picture.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, format_name, **options)
        files.append(file.getvalue())
    return files


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The file with bytes changed, cut, moved, inserted or removed, or a marker put in."""
    data, size = bytearray(content), len(content)
    place, other = rng.randrange(20, size - 2), rng.randrange(20, size - 20)
    how = rng.choice(WAYS)
    if how == "byte":
        data[rng.randrange(size)] = rng.randrange(256)
    elif how == "bytes":
        for _ in range(8):
            data[rng.randrange(size)] = rng.randrange(256)
    elif how == "header":  # sizes are there
        data[rng.randrange(min(200, size))] ^= rng.choice([1, 2, 8, 16, 128])
    elif how == "cut":
        data = data[: rng.randrange(1, size)]
    elif how == "marker":
        data[place : place + 2] = 0xFF, rng.choice([0xD0, 0xD3, 0xD7, 0x57, 0xD9, 0xDA, 0xC4])
    elif how == "swap":
        data[place : place + 2], data[other : other + 2] = (
            data[other : other + 2],
            data[place : place + 2],
        )
    elif how == "zeros":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif how == "insert":
        data[place:place] = rng.randbytes(4)
    else:
        del data[place : place + rng.randrange(1, 40)]
    return bytes(data)


def write_damaged_files(folder: Path, count: int) -> list[str]:
    """`count` files of each kind, the first three of them sound; returns their names, in order."""
    names = []
    for kind in KINDS:
        (folder / kind).mkdir()
        rng, sound = random.Random(kind), sound_files(kind, 3)
        for number in range(count):
            content = sound[number] if number < 3 else damaged(rng.choice(sound), rng)
            (folder / kind / f"{number:05d}").write_bytes(content)
            names.append(f"{kind}/{number:05d}")
    return names


def our_verdicts(folder: Path, names: list[str]) -> list[str]:
    """Why preparation rejects each file; empty where it accepts it for training in place."""
    source = Source.of(folder, names, [0] * len(names))
    with Workers() as workers:
        return [
            result.found.reasons().get(place, "")
            for result in workers.results(tasks(source, range(len(source))))
            for place in range(len(result.found.rows))
        ]


def opinions(folder: Path, names: list[str], verdicts: list[str]) -> list[Opinion]:
    """Others' opinions of each file, from a process that may die of one."""
    context = multiprocessing.get_context("spawn")
    found: list[Opinion] = []
    while len(found) < len(names):
        receiver, sender = context.Pipe(duplex=False)
        left = slice(len(found), None)
        arguments = (sender, folder, names[left], verdicts[left])
        process = context.Process(target=_send_opinions, args=arguments)
        process.start()
        sender.close()
        try:
            while len(found) < len(names):
                found.append(receiver.recv())
        except EOFError:
            found.append(Opinion(False, False, None))
        process.join()
    return found


def _send_opinions(sender: Connection, folder: Path, names: list[str], verdicts: list[str]) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    for name, verdict in zip(names, verdicts, strict=True):
        data = (folder / name).read_bytes()
        pillow = _pillow(data)
        strict = _libjpeg(data) if KINDS[name.split("/")[0]][0] == "JPEG" else pillow
        ours = None if verdict else decode(np.frombuffer(data, np.uint8))
        sender.send(Opinion(pillow is not None, strict is not None, _difference(ours, strict)))


def _pillow(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # it raises many kinds
        return None


def _libjpeg(data: bytes) -> NDArray[np.uint8] | None:
    """With its warnings taken for errors, but that of JFIF's revision, which is not of pixels."""
    if data[6:11] == b"JFIF\0":
        data = data[:11] + b"\1\1" + data[13:]
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None


def _difference(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> int | None:
    if one is None or other is None:
        return None
    return 255 if one.shape != other.shape else int(np.abs(one.astype(int) - other).max())


def table(count: int) -> str:
    """Verdicts on `count` files of each kind, ours and others'."""
    with tempfile.TemporaryDirectory() as folder:
        names = write_damaged_files(Path(folder), count)
        verdicts = our_verdicts(Path(folder), names)
        others = opinions(Path(folder), names, verdicts)
    rows = []
    for first in range(0, len(names), count):
        ours, theirs = verdicts[first : first + count], others[first : first + count]
        accepted = [opinion for verdict, opinion in zip(ours, theirs, strict=True) if not verdict]
        rows.append(
            {
                "kind": names[first].split("/")[0],
                "files": count,
                "accepted": len(accepted),
                "rejected": count - len(accepted),
                "for a crash": sum("crashes" in verdict for verdict in ours),
                "Pillow accepts": sum(opinion.pillow for opinion in theirs),
                "strict decoder accepts": sum(opinion.strict for opinion in theirs),
                "accepted, but other pixels": sum(not opinion.agrees() for opinion in accepted),
            }
        )
    return records(rows)


if __name__ == "__main__":
    print(table(int(sys.argv[1])))
