"""`--run.dry_run`: what a run will take, before it begins."""

import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch

from alexnet_dali.train.trainer import Trainer

_TIMED = 10  # steps
_VALIDATION = 5  # batches, at most


def check(trainer_in: Callable[[str], Trainer], folder: Path) -> int:
    """Time some steps of the run from its start, and print what the whole of it takes.

    `trainer_in` gives its trainer in another folder than its own, `folder`, into which nothing is
    written, and from which nothing is read. Returns the exit status, 0.
    """
    with tempfile.TemporaryDirectory() as temporary:
        trainer = trainer_in(temporary)
        step_seconds = _time_steps(trainer)
        validation_seconds = _time_validation(trainer)
        memory = _memory(trainer)
        gathered = trainer.state.gather(trainer.ranks.all_gather_over_pairs)
        num_bytes = trainer.run_folder.num_bytes(gathered)
    plan = trainer.plan
    seconds = plan.num_steps * step_seconds
    seconds += plan.num_steps // plan.steps_per_epoch * validation_seconds
    lines = [*trainer.header(folder), _time(trainer, step_seconds, seconds)]
    lines += [_disk(folder, trainer.config.run.keep_checkpoints + 2, num_bytes), memory]
    trainer.ranks.say("\n".join([*lines, "nothing was written; leave out --run.dry_run to train"]))
    return 0


def _time_steps(trainer: Trainer) -> float:
    """Seconds that a step takes, waiting for its images included."""
    stopwatch = trainer.stopwatch
    for number, batch in enumerate(islice(trainer.batches(), trainer.warm_up + _TIMED), 1):
        stopwatch.got_batch()
        trainer.train_step(batch)
        stopwatch.end_step()
        if number == trainer.warm_up:
            _wait(trainer)
            stopwatch.reset()
        stopwatch.resume()
    _wait(trainer)
    measured = stopwatch.metrics(trainer.plan.batch_size)
    if trainer.state.step <= trainer.warm_up:
        raise ValueError(
            f"the run has {trainer.state.step} steps, which are too few to be timed; expected more "
            f"than {trainer.warm_up}: train it without --run.dry_run"
        )
    return measured["throughput/step_ms"] / 1000


def _wait(trainer: Trainer) -> None:
    """Until the device has done what it was given."""
    trainer.state.sums.tolist()


def _time_validation(trainer: Trainer) -> float:
    """Seconds that all validation images take, from some batches of them."""
    whole = -(-len(trainer.dataset.val) // trainer.plan.batch_size)
    timed = min(whole, _VALIDATION)
    began = time.monotonic()
    trainer.validate(timed)
    return (time.monotonic() - began) / timed * whole


def _memory(trainer: Trainer) -> str:
    """The most that a rank has taken so far. Every rank must call it."""
    ranks, on_gpu = trainer.ranks, 0.0
    host = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if ranks.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(ranks.device)
        on_gpu = total - free
    host, on_gpu = ranks.all_reduce_max([host, on_gpu])
    gpu = f", {on_gpu / 1e9:.1f} GB of its GPU" if on_gpu else ""
    return f"memory: {host / 1e9:.1f} GB for each rank{gpu}"


def _time(trainer: Trainer, step_seconds: float, seconds: float) -> str:
    plan, rate = trainer.plan, trainer.plan.batch_size / step_seconds
    return (
        f"time: {timedelta(seconds=round(seconds))} for {plan.num_steps:,} steps of "
        f"{1000 * step_seconds:.0f} ms ({rate:,.0f} images/s) and the validations; checkpoints "
        "come on top"
    )


def _disk(folder: Path, num_files: int, num_bytes: int) -> str:
    """How much checkpoints take: those that are kept, the best, and one that is being written."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return (
        f"disk: up to {num_files} checkpoints of {num_bytes / 1e6:,.0f} MB, "
        f"{num_files * num_bytes / 1e6:,.0f} MB together; "
        f"{shutil.disk_usage(existing).free / 1e6:,.0f} MB are free"
    )
