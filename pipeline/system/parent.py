"""Processes and the process that started them."""

import os
from multiprocessing import parent_process

_STARTED = os.getpid(), os.getppid()


def starter() -> int:
    """The process that started this one: known before imports that take seconds.

    It may be gone; os.getppid() is then another one.
    """
    return _STARTED[1] if _STARTED[0] == os.getpid() else os.getppid()


def check_process(made_in: int) -> None:
    """ValueError in another process than the one that made a loader: it has none of its threads."""
    if os.getpid() != made_in:
        raise ValueError(
            "this process was forked from the one that made the loader, whose threads did not come "
            "along; make a loader in the new process, and start that by spawn or forkserver"
        )


def end_with_the_parent() -> None:
    """For a thread of a worker: end the worker when its parent has been killed.

    It would otherwise wait for ever.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
