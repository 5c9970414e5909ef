"""While Python starts: no traceback where Ctrl-C interrupts an import, no search for garbage."""

import atexit
import gc
import signal
import sys


def begin() -> None:
    """End at once on SIGINT, until `done` is called, in a program begun by `python -m`.

    Python would search the many objects of torch for garbage again and again, while they are
    imported and when it ends: a second or two each.
    """
    if sys.argv[:1] != ["-m"]:  # what Python writes there until it has found the module
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    atexit.register(gc.freeze)


def done() -> None:
    """Let SIGINT raise KeyboardInterrupt again, and garbage be searched for in what comes now."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
