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
from pathlib import Path

import torch

from pipeline.prepare.examine import end_with_the_parent
from train.config import Config
from train.distributed import join
from train.trainer import Trainer

_PATIENCE = 20.0
"""Seconds in which a worker that is told to stop must have saved."""


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Processes that train, `count` at the same time, with an equal share of the cores each.

    Where the block ends by a signal or an error, they save and end. OSError where one is killed.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    with ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (threads,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise OSError(
                "a training was killed, perhaps for its memory; rerun the command to resume"
            ) from error
        except KeyboardInterrupt:  # has reached the workers, too; a second would not let them save
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(active_children())
            raise


def train(config: Config) -> None:
    """Train in this process, a worker; what the run prints goes to a log beside its folder.

    A signal ends the worker once the run has saved: it must not begin anything else.
    """
    folder = Path(str(config.run.dir))
    num_threads = config.data.num_threads or torch.get_num_threads()
    config = replace(config, data=replace(config.data, num_threads=num_threads))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.log", "a") as log, redirect_stdout(log):
        with join(config.run.device, config.model.columns) as ranks:
            status = Trainer(config, ranks).fit()
        log.flush()
    if status:
        os._exit(status)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends those that wait, without a word
    threading.Thread(target=end_with_the_parent, daemon=True).start()


def _stop(processes: list[BaseProcess]) -> None:
    """Let them save and end; one that waits for work is ended at last."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
