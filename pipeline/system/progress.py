"""Progress of long work: a bar on a terminal, and a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from tqdm import tqdm

LINE_EVERY = 30.0
"""Seconds between two lines, where the output is no terminal."""


@contextmanager
def progress(
    total: int, name: str, unit: str, done: int = 0, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to call with how many more are done, of `total`.

    `done` were done before. It writes to stderr, and how long the rest will take.
    """
    began, before = time.monotonic(), done
    said_at = began
    with tqdm(
        total=total, initial=done, desc=name, unit=f" {unit}", disable=None if shown else True
    ) as bar:

        def advance(count: int) -> None:
            nonlocal done, said_at
            done += count
            bar.update(count)
            now = time.monotonic()
            if shown and bar.disable and now - said_at >= LINE_EVERY and done > before:
                left = (now - began) / (done - before) * (total - done)
                print(_line(name, done, total, unit, left), file=sys.stderr, flush=True)
                said_at = now

        yield advance


def _line(name: str, done: int, total: int, unit: str, left: float) -> str:
    clock = time.strftime("%H:%M:%S")
    return f"{clock}  {name}: {done} of {total} {unit}, {timedelta(seconds=round(left))} left"
