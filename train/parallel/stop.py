"""A polite request to stop: SIGTERM or SIGINT."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

_PATIENCE = 1.0
"""Seconds within which a second signal counts as the same request.

torchrun passes on signals that a rank may already have received itself.
"""


class StopRequest:
    """While entered, the first SIGTERM or SIGINT is only noted; a later one acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > _PATIENCE:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
