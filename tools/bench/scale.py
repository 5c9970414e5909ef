"""Baseline of `tools.bench scale`: a list as long as ImageNet's, before and between batches.

    python -m alexnet_dali.tools.bench.scale 128 100 prepared/imagenet

The result is one line of JSON.
"""

import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from alexnet_dali.pipeline import DataLoader, Pixels, RandomCrop
from alexnet_dali.pipeline.dataset import Dataset, fingerprint

NUM_IMAGES = 1_281_167
"""ImageNet's training images of 2012."""


def repeat(data: Path, out: Path) -> None:
    """Write `data` to `out` with its training list repeated to ImageNet's length."""
    dataset = Dataset.open(data)
    lines = (data / "train.txt").read_bytes().splitlines(keepends=True)
    (out / "train.txt").write_bytes(b"".join(itertools.islice(itertools.cycle(lines), NUM_IMAGES)))
    indices = np.resize(np.arange(len(lines)), NUM_IMAGES)
    arrays: dict[str, Any] = {"train": dataset.train.sizes[indices], "val": dataset.val.sizes}
    arrays |= {"train_labels": dataset.train.labels[indices], "val_labels": dataset.val.labels}
    for part, images in (("train", dataset.train), ("val", dataset.val)):
        for name, rows in (("spans", images.spans), ("lengths", images.lengths)):
            if rows is not None:
                arrays[f"{part}_{name}"] = rows[indices] if part == "train" else rows
    np.savez(out / "sizes.npz", **arrays)
    for name in ("val.txt", "classes.txt", "names.txt", "stats.npz"):
        (out / name).write_bytes((data / name).read_bytes())
    about = yaml.safe_load((data / "dataset.yaml").read_text())
    about.pop("test_root", None)
    roots = {
        "train_root": os.path.abspath(dataset.train.root),
        "val_root": os.path.abspath(dataset.val.root),
    }
    (out / "dataset.yaml").write_text(
        yaml.safe_dump(about | roots | {"fingerprint": fingerprint(out)})
    )


def measure(folder: Path, batch_size: int, num_batches: int) -> dict[str, float]:
    """Seconds and memory up to the first batch, and how long a batch takes at an epoch's border."""
    process = psutil.Process()
    gc.collect()
    before, start = process.memory_info().rss, time.perf_counter()
    dataset = Dataset.open(folder)
    loader = DataLoader(
        dataset, global_batch_size=batch_size, crops=RandomCrop(224, 256), pixels=Pixels("image")
    )
    next(iter(loader))
    seconds, grown = time.perf_counter() - start, process.memory_info().rss - before
    border = len(loader)
    loader.load_state_dict(loader.state_dict() | {"step": border - num_batches // 2})
    waits = [wait for _ in range(2) for wait in _waits(loader, border + num_batches // 2)]
    return {
        "first_batch_s": seconds,
        "memory_mb": grown / 2**20,
        "median_wait_ms": 1000 * statistics.median(waits),
        "longest_wait_at_border_ms": 1000 * max(waits[1:]),
    }


def _waits(loader: DataLoader, end: int) -> Iterator[float]:
    """Seconds until each batch of an epoch was there, as far as step `end`."""
    asked = time.perf_counter()
    for _ in loader:
        yield time.perf_counter() - asked
        if loader.step == end:
            return
        asked = time.perf_counter()


def main(batch_size: str, num_batches: str, data: str) -> None:
    """Measure in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as name:
        if os.fork() == 0:  # so that making the list does not affect what is measured
            repeat(Path(data), Path(name))
            os._exit(0)
        os.wait()
        print(json.dumps(measure(Path(name), int(batch_size), int(num_batches))))


if __name__ == "__main__":
    main(*sys.argv[1:])
