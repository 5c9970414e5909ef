"""Contender of `tools.bench scale`: a list as long as ImageNet's, before and between batches.

    python -m tools.bench.scale 128 100 prepared/imagenet

The result is one line of JSON.
"""

import gc
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from pipeline.dataset import Dataset, fingerprint
from pipeline.loader import Loader
from pipeline.plan import TrainingPlan
from pipeline.preprocessing import Preprocessing

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
        if images.spans is not None:
            arrays[f"{part}_spans"] = images.spans[indices] if part == "train" else images.spans
    np.savez(out / "sizes.npz", **arrays)
    for name in ("val.txt", "classes.txt", "stats.npz"):
        (out / name).write_bytes((data / name).read_bytes())
    about = yaml.safe_load((data / "dataset.yaml").read_text())
    roots = {
        "train_root": os.path.abspath(dataset.train.root),
        "val_root": os.path.abspath(dataset.val.root),
    }
    (out / "dataset.yaml").write_text(
        yaml.safe_dump(about | roots | {"fingerprint": fingerprint(out)})
    )


def measure(folder: Path, batch_size: int, num_batches: int) -> dict[str, float]:
    """What a list costs: seconds and memory up to the first batch, and Python's time later."""
    process = psutil.Process()
    gc.collect()
    before, start = process.memory_info().rss, time.perf_counter()
    dataset = Dataset.open(folder)
    plan = TrainingPlan(len(dataset.train), batch_size, 32, seed=0, num_steps=10 * num_batches)
    preprocessing = Preprocessing.of(dataset.stats, 256, 224, "image", 0.1)
    loader = Loader(dataset.train, plan, preprocessing)
    next(iter(loader))
    seconds, grown = time.perf_counter() - start, process.memory_info().rss - before
    start = time.perf_counter()
    np.random.Generator(np.random.Philox(key=[0, 1])).permutation(NUM_IMAGES)
    permutation = time.perf_counter() - start
    start = time.perf_counter()
    plan.views(plan.steps_per_epoch, 0, 1)
    epoch = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(num_batches):
        loader.request(step)
    return {
        "first_batch_s": seconds,
        "memory_mb": grown / 2**20,
        "permutation_s": permutation,
        "epoch_draws_s": epoch,
        "python_ms_per_batch": 1000 * (time.perf_counter() - start) / num_batches,
    }


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
