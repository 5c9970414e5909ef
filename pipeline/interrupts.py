"""Ctrl-C while Python starts: no traceback of imports that it interrupts."""

import signal
import sys


def quiet_while_starting() -> None:
    """End at once on SIGINT, until `as_usual` is called, in a program begun by `python -m`."""
    starts = sys.argv[:1] == ["-m"]  # what Python writes there until it has found the module
    if starts and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def as_usual() -> None:
    """Let SIGINT raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
