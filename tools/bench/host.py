"""`tools.bench host`: what Python costs a rank where nothing is decoded and no kernel runs.

On many GPUs that is what limits a rank: one process feeds it, in one interpreter, whose lock its
threads share. tools/bench/host_driver.py measures.

main_ms            of the main thread, a batch: it feeds the graph between the steps of training
threads_ms         of all threads that Python has started, the main thread among them; not DALI's
images_per_second  by the clock
cpu_us_per_image   of everything, DALI's threads and child processes too
read_us_per_image  the part of it that is neither Python's nor the main thread's: there, files are
                   read, unless they lie in archives that Python's threads read
longest_ms         the longest wait for a batch, around the end of an epoch

All include a batch's share of drawing an epoch of 1,281,167 images. `further-image` is what lies
between two batch sizes, for each image of the difference.

Row `step` is a training step on tensors without values: own_ms are those of its main_ms outside of
operations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.bench.against import Command, Rounds, packages_of
from alexnet_dali.tools.bench.baselines import RESIZE

BATCH_SIZES = [128, 256]


def commands(folders: Sequence[str], batch_sizes: Sequence[int]) -> dict[str, Command]:
    """A row for each folder, by what it holds, and batch size; and the step, with the first.

    ValueError where two folders hold the same kind.
    """
    found: dict[str, Command] = {}
    for folder in folders:
        kind = _kind(Dataset.open(Path(folder)))
        for batch_size in batch_sizes:
            name = f"{kind}-{batch_size}"
            if name in found:
                raise ValueError(f"{folder} holds {kind}, as another does; expected one of each")
            found[name] = _command("feed", folder, batch_size)
    return found | {"step": _command("step", folders[0], batch_sizes[0])}


def _command(what: str, folder: str, batch_size: int) -> Command:
    driver = str(ROOT / "tools/bench/host_driver.py")
    return [driver, what, folder, str(batch_size)], packages_of(ROOT)


def _kind(dataset: Dataset) -> str:
    stored = (dataset.train.sizes.min(axis=1) == RESIZE).all()
    if dataset.train.spans is not None:
        return "shards" if stored else "archives"
    return "store" if stored else "originals"


def with_slopes(rounds: Rounds) -> Rounds:
    """The rounds, and what each further image costs Python's threads, from batch to batch."""
    found = dict(rounds)
    groups: dict[str, list[str]] = {}
    for name, measured in rounds.items():
        group = name.replace(f"-{measured[0]['batch_size']}", "-further-image")
        groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        if len(names) > 1:
            found[group] = [_slope(one) for one in zip(*(rounds[name] for name in names))]
    return found


def _slope(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Microseconds between the smallest and the largest batch, for each image of the difference."""
    small, large = (pick(measured, key=lambda one: one["batch_size"]) for pick in (min, max))
    images = large["batch_size"] - small["batch_size"]
    return {
        f"{figure}_us": 1000 * (large[f"{figure}_ms"] - small[f"{figure}_ms"]) / images
        for figure in ("main", "threads")
    }
