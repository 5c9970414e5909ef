"""`--run.dry_run`: what a run will take, before it begins."""

import resource
import shutil
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch

from alexnet_dali.train.capture import READY
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import Config, ConfigError
from alexnet_dali.train.data import crop_mean, evaluation_batches, training_plan
from alexnet_dali.train.evaluation import error_rates
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.record.header import header
from alexnet_dali.train.record.metrics import say
from alexnet_dali.train.trainer import Trainer

_WARM_UP, _TIMED = READY, 10  # steps
_VALIDATION = 5  # batches, at most


def check(config: Config, ranks: Ranks) -> int:
    """Time some steps of the run from its start, and print what the whole of it takes.

    Nothing is written into its folder, nor read from it. Returns the exit status, 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = replace(config.run, dir=folder, max_steps=_WARM_UP + _TIMED, profile=0)
        trainer = Trainer(replace(config, run=run), ranks)
        step_seconds = _time_steps(trainer)
        validation_seconds = _time_validation(trainer)
        memory = _memory(ranks)
        num_bytes = checkpoint.num_bytes(trainer.state.gather(ranks))
    if ranks.is_main:
        plan = training_plan(config, trainer.dataset)
        seconds = plan.num_steps * step_seconds
        seconds += plan.num_steps // plan.steps_per_epoch * validation_seconds
        lines = header(config, trainer.state.model, trainer.dataset, plan, ranks)
        lines += [_time(config, plan.num_steps, step_seconds, seconds), _disk(config, num_bytes)]
        say("\n".join([*lines, memory, "nothing was written; leave out --run.dry_run to train"]))
    return 0


def _time_steps(trainer: Trainer) -> float:
    """Seconds that a step takes, waiting for its images included."""
    stopwatch = trainer.stopwatch
    for number, batch in enumerate(trainer.batches(), 1):
        stopwatch.got_batch()
        trainer.train_step(batch)
        stopwatch.end_step()
        if number == _WARM_UP:
            _wait(trainer)
            stopwatch.reset()
        stopwatch.resume()
    _wait(trainer)
    measured = stopwatch.metrics(trainer.config.train.batch_size)
    if trainer.state.step <= _WARM_UP:
        raise ConfigError(
            f"the run has {trainer.state.step} steps, which are too few to be timed; expected more "
            f"than {_WARM_UP}: train it without --run.dry_run"
        )
    return measured["throughput/step_ms"] / 1000


def _wait(trainer: Trainer) -> None:
    """Until the device has done what it was given."""
    trainer.state.sums.tolist()


def _time_validation(trainer: Trainer) -> float:
    """Seconds that all validation images take, from some batches of them."""
    config, ranks, images = trainer.config, trainer.ranks, trainer.dataset.val
    batch_size = config.train.batch_size
    batches = evaluation_batches(images, config.data, ranks, batch_size)
    mean = crop_mean(trainer.dataset.stats, config.data, ranks.device)
    whole = -(-len(images) // batch_size)
    timed = min(whole, _VALIDATION)
    began = time.monotonic()
    with trainer.autocast:
        error_rates(trainer.state.model, islice(batches, timed), mean, ranks.all_reduce_over_pairs)
    return (time.monotonic() - began) / timed * whole


def _memory(ranks: Ranks) -> str:
    """The most that a rank has taken so far. Every rank must call it."""
    host, on_gpu = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    if ranks.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(ranks.device)
        on_gpu = total - free
    host, on_gpu = ranks.all_reduce_max([host, on_gpu])
    gpu = f", {on_gpu / 1e9:.1f} GB of its GPU" if on_gpu else ""
    return f"memory: {host / 1e9:.1f} GB for each rank{gpu}"


def _time(config: Config, num_steps: int, step_seconds: float, seconds: float) -> str:
    rate = config.train.batch_size / step_seconds
    return (
        f"time: {timedelta(seconds=round(seconds))} for {num_steps:,} steps of "
        f"{1000 * step_seconds:.0f} ms ({rate:,.0f} images/s) and the validations; checkpoints "
        "come on top"
    )


def _disk(config: Config, num_bytes: int) -> str:
    """How much checkpoints take: those that are kept, the best, and one that is being written."""
    files = config.run.keep_checkpoints + 2
    folder = Path(str(config.run.dir)).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return (
        f"disk: up to {files} checkpoints of {num_bytes / 1e6:,.0f} MB, "
        f"{files * num_bytes / 1e6:,.0f} MB together; "
        f"{shutil.disk_usage(existing).free / 1e6:,.0f} MB are free"
    )
