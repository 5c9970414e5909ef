"""Standard streams: some processes are started without, and readers may go away."""

import os
import select
import sys


def open_streams() -> None:
    """Where a process was started without stdout or stderr (>&-), let it lead nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def silence_stdout() -> None:
    """Let what is printed from now on, and what could not be printed yet, lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader is gone, as after `| head -1`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
