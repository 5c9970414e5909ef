"""Processes that examine files, and outlive files that kill the decoder."""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from alexnet_dali.pipeline.prepare.examine import (
    Examined,
    Task,
    catch_what_the_decoder_says,
    crashed,
    why_not_decoded,
)
from alexnet_dali.pipeline.prepare.sockets import fit_the_fork_server
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.store import StoreFormat
from alexnet_dali.pipeline.system.cores import usable_cores
from alexnet_dali.pipeline.system.faults import ResourceError
from alexnet_dali.pipeline.system.parent import end_with_the_parent

# Forked from a process that has imported DALI and done nothing else, workers start at once. Above
# all that process has not asked for GPUs (DALI's dynamic mode would, on import): a child of a
# process that has can't use CUDA, not even to look.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "torch"])

T = TypeVar("T")


class Workers:
    """A process for each core. Where one dies, the file that killed it is found, and work goes on.

    Use as a context manager.
    """

    def __init__(self) -> None:
        fit_the_fork_server()
        self._count = usable_cores()
        self._pool = self._new_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def why_not_decoded(self, source: Source, index: int, store: StoreFormat | None) -> str:
        """See examine. A file that kills the process is left to `results`, which finds it again."""
        try:
            return self._submit(why_not_decoded, source.take([index]), 0, store).result()
        except BrokenProcessPool:
            self._renew()
            return ""

    def results(self, tasks: Iterable[Task]) -> Iterator[Examined]:
        """What is found for each task, in order.

        Whatever a task raises is raised here. ResourceError where the system kills a process, which
        it does for want of memory.
        """
        most_waiting = 4 * self._count  # stored images must not pile up in memory
        waiting: deque[tuple[Task, Future[Examined]]] = deque()
        for task in tasks:
            waiting.append((task, self._submit(task.run)))
            if len(waiting) > most_waiting:
                yield self._first_of(waiting)
        while waiting:
            yield self._first_of(waiting)

    def _first_of(self, waiting: "deque[tuple[Task, Future[Examined]]]") -> Examined:
        """The oldest task's result; where a process has died, that task is done apart."""
        task, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            self._renew()
            for place, (other, _) in enumerate(waiting):
                waiting[place] = other, self._submit(other.run)
            return _apart(task)

    def _submit(self, call: Callable[..., T], *words: Any) -> "Future[T]":
        try:
            return self._pool.submit(call, *words)
        except BrokenProcessPool as error:
            broken: Future[T] = Future()
            broken.set_exception(error)
            return broken
        except (EOFError, ConnectionError) as error:
            raise ResourceError(
                "the process that forks the others has ended: out of memory (free -h), or at the "
                "limit of processes (ulimit -u, or a container's pids); rerun the command to resume"
            ) from error

    def _renew(self) -> None:
        self._pool.shutdown()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, _CONTEXT, _start)


def _apart(task: Task) -> Examined:
    """The task's result from a process of its own; if that dies, from one for each half of it.

    So the file that kills is left alone in the end, and no other is blamed.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send_result, args=(sender, task), daemon=True)
    process.start()
    sender.close()
    begun, result = False, None
    with contextlib.suppress(EOFError):
        begun = receiver.recv()
        result = receiver.recv()
    process.join()
    if isinstance(result, Exception):
        raise result
    if result is not None:
        return result
    if not begun and process.exitcode != -signal.SIGKILL:
        raise ResourceError(
            "processes that decode can't start, and print why; expected scripts to call this below "
            '`if __name__ == "__main__":`'
        )
    if len(task) > 1:
        first, second = task.halves()
        return _apart(first).merged_with(_apart(second))
    number = -(process.exitcode or 0)
    if number == signal.SIGKILL:
        raise ResourceError(
            f"a process that decoded {task.files.root}/{task.files.listed_name(0)} was killed, as "
            "the system does where memory runs out; rerun the command to resume. See what else "
            "runs here (free -h)"
        )
    return crashed(task, signal.Signals(number).name if number > 0 else "its process ended")


def _send_result(sender: Connection, task: Task) -> None:
    _start()
    sender.send(True)  # from here on, the files are to blame
    try:
        sender.send(task.run())
    except Exception as error:  # raised again where the result is asked for
        sender.send(error)


def _start() -> None:
    """Leave GPUs alone, and catch what the decoder prints of bad files, for the list of them."""
    # Each worker would take some hundred megabytes of the first GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow's are of headers; they must not pass for the decoder's
    catch_what_the_decoder_says(sys.stderr.fileno())
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
