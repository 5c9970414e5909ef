"""Many trainings, some of them at the same time. Each resumes where it stopped."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NoReturn

import torch

from alexnet_dali.pipeline.system.parent import end_with_the_parent
from alexnet_dali.train.config import Config
from alexnet_dali.train.data import MOST_THREADS_A_GPU
from alexnet_dali.train.parallel.ranks import join
from alexnet_dali.train.trainer import Trainer

_LONGEST_SAVE = 600.0
"""Seconds after which a worker that was asked to stop is ended, saved or not."""

_saved: "SimpleQueue[int]"
"""In a worker: where it says that it has saved, by its process number."""


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Processes that train, `count` at the same time, with an equal share of the cores each.

    Where the block ends by a signal or an error, they save and end. OSError where one is killed.
    """
    context = get_context("spawn")
    saved: SimpleQueue[int] = context.SimpleQueue()
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    with ProcessPoolExecutor(count, context, _start_worker, (threads, saved)) as pool:
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            # Ctrl-C and the pool's own end have reached the workers; a second signal would not let
            # them save.
            asked = isinstance(error, (KeyboardInterrupt, BrokenProcessPool))
            _end(active_children(), saved, asked)
            if isinstance(error, BrokenProcessPool):
                raise OSError(
                    "a training was killed, perhaps for its memory; rerun the command to resume"
                ) from error
            raise


def train(config: Config) -> None:
    """Train in this process, a worker; what the run prints goes to a log beside its folder."""
    folder = Path(str(config.run.dir))
    threads = torch.get_num_threads()
    if config.data.num_threads is None and threads < len(os.sched_getaffinity(0)):
        share = min(threads, MOST_THREADS_A_GPU)
        config = replace(config, data=replace(config.data, num_threads=share))
    config = replace(config, run=replace(config.run, pictures=False))  # of one run among many
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(folder.parent / f"{folder.name}.log", "a") as log,
        redirect_stdout(log),
        join(config.run.device, config.model.columns) as ranks,
    ):
        status = Trainer(config, ranks).fit()
    if status:
        wait_for_the_end()


def wait_for_the_end() -> NoReturn:
    """In a worker that has saved after a signal: begin nothing else, and do not end.

    If it ended, the pool would end all others at once, and they may still be saving.
    """
    _saved.put(os.getpid())
    while True:
        signal.pause()


def _start_worker(threads: int, saved: "SimpleQueue[int]") -> None:
    global _saved
    _saved = saved
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends those that wait, without a word
    threading.Thread(target=end_with_the_parent, daemon=True).start()


def _end(processes: list[BaseProcess], saved: "SimpleQueue[int]", asked: bool) -> None:
    """End workers once each has saved or is gone; first ask them to stop, unless that is done."""
    if not asked:
        for process in processes:
            process.terminate()
    waiting = {process.pid: process for process in processes}
    deadline = time.monotonic() + _LONGEST_SAVE
    while waiting and time.monotonic() < deadline:
        while not saved.empty():
            waiting.pop(saved.get(), None)
        waiting = {pid: process for pid, process in waiting.items() if process.is_alive()}
        time.sleep(0.05)
    for process in processes:
        process.kill()
