"""Worker processes and the process that started them."""

import os
from multiprocessing import parent_process


def end_with_the_parent() -> None:
    """For a thread of a worker: end the worker when its parent has been killed.

    It would otherwise wait for ever.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
