"""A pool of workers without workers: tasks run one after another, in this process."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any


class Pool(Executor):
    """An executor that has run a task when it is handed in."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Run the task."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def workers(count: int) -> Iterator[Pool]:
    """In the place of `tools.paper.runs.workers`, which takes seconds to start."""
    yield Pool()
