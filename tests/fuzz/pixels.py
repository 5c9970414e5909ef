"""Whether what preparation accepts of odd and damaged files has a strict decoder's pixels.

    python -m tests.fuzz.pixels 10000

prints what it makes of so many, and which of the accepted ones differ.
"""

import multiprocessing
import os
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from alexnet_dali.pipeline import decode
from alexnet_dali.pipeline.prepare.examine import tasks
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.store import StoreFormat, resize_on_the_grid
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.tools.tables import records
from tests.fuzz.odd_images import KINDS, odd_file, saved
from tests.fuzz.strict import pillows, strict

SIDE = 48
STORE = StoreFormat(SIDE, 95, shards=False)


def write(folder: Path, count: int, seed: int = 0) -> list[str]:
    """`count` files, as many of each kind; returns their names."""
    names = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        name = f"{kind}/{number:05d}"
        (folder / kind).mkdir(exist_ok=True)
        (folder / name).write_bytes(odd_file(kind, random.Random(f"{seed} {number}")))
        names.append(name)
    return names


def verdicts(
    workers: Workers, folder: Path, names: list[str], store: StoreFormat | None
) -> tuple[list[str], dict[str, bytes]]:
    """Why each file is rejected, empty where it is not; and what is stored of the others."""
    source = Source.of(folder, names, [0] * len(names))
    reasons: list[str] = []
    stored: list[bytes] = []
    for found, images, _ in workers.results(tasks(source, range(len(names)), store=store)):
        said = found.reasons()
        reasons += [said.get(place, "") for place in range(len(found.rows))]
        stored += images
    usable = [name for name, reason in zip(names, reasons, strict=True) if not reason]
    return reasons, dict(zip(usable, stored)) if store else {}


def differences(folder: Path, names: list[str], stored: dict[str, bytes]) -> dict[str, str]:
    """How accepted files differ from a strict decoder's view; found in a process that may die."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, str] = {}
    left = list(names)
    while left:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_compare, args=(sender, folder, left, stored))
        process.start()
        sender.close()
        try:
            while left:
                difference = receiver.recv()
                name = left.pop(0)
                if difference:
                    found[name] = difference
        except EOFError:
            found[left.pop(0)] = "crashes a decoder"
        process.join()
    return found


def _compare(sender, folder: Path, names: list[str], stored: dict[str, bytes]) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    for name in names:
        data = (folder / name).read_bytes()
        sender.send(_stored(data, stored[name]) if name in stored else _in_place(data))


def _in_place(data: bytes) -> str:
    expected = strict(data)
    if expected is None:
        return "a strict decoder complains"
    content = np.frombuffer(data, np.uint8)
    whole = decode.decode(content)
    if whole.shape != expected.shape:
        return f"{whole.shape} in place of {expected.shape}"
    difference = np.abs(whole.astype(int) - expected).max()
    if difference > 1:
        return f"{difference} levels"
    height, width = whole.shape[:2]
    box = (height // 3, width // 4, height, max(width - 1, 1))
    part = _region(content, box)
    cut = whole[box[0] : box[2], box[1] : box[3]]
    return "" if np.array_equal(part, cut) else "a region has other pixels than the whole"


def _region(content: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """As training decodes it."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        pixels = fn.decoders.image_slice(
            fn.external_source(name="file"),
            start=list(box[:2]),
            end=list(box[2:]),
            axis_names="HW",
            device="cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,
        )
        pipeline.set_outputs(pixels)
    pipeline.build()
    pipeline.feed_input("file", [content])
    return np.asarray(pipeline.run()[0][0])


def _stored(data: bytes, image: bytes) -> str:
    expected = strict(data)
    if expected is None:
        return "a strict decoder complains"
    resized = resize_on_the_grid(np.ascontiguousarray(expected), SIDE)
    right = pillows(saved(resized, "JPEG", quality=STORE.quality, subsampling="4:2:0"))
    found = pillows(image)
    assert right is not None and found is not None
    if found.shape != right.shape:
        return f"stored {found.shape} in place of {right.shape}"
    difference = np.abs(found.astype(int) - right).mean()
    return f"stored, {difference:.0f} levels on the mean" if difference > 2 else ""


def examine(folder: Path, count: int, seed: int = 0) -> tuple[list[dict], dict[str, str]]:
    """A row for each kind, and the files with other pixels than a strict decoder's."""
    names = write(folder, count, seed)
    with Workers() as workers:
        in_place, _ = verdicts(workers, folder, names, None)
        converted, images = verdicts(workers, folder, names, STORE)
    accepted = [name for name, reason in zip(names, in_place, strict=True) if not reason]
    wrong = differences(folder, list(images), images) | differences(folder, accepted, {})
    rows = []
    for kind in KINDS:
        mine = [place for place, name in enumerate(names) if name.startswith(f"{kind}/")]
        rows.append(
            {
                "kind": kind,
                "files": len(mine),
                "accepted": sum(not in_place[place] for place in mine),
                "with --resize": sum(not converted[place] for place in mine),
                "for a crash": sum("crashes" in in_place[place] for place in mine),
                "other pixels": sum(name.startswith(f"{kind}/") for name in wrong),
            }
        )
    return rows, wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        rows, wrong = examine(Path(name), int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    print(records(rows))
    for name, how in sorted(wrong.items())[:40]:
        print(name, how)
    print(Counter(how for how in wrong.values()).most_common(8))
