"""How commands fail: a message and an exit status."""

import argparse
import io
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from alexnet_dali.pipeline import starting
from alexnet_dali.pipeline.dataset import printable
from alexnet_dali.pipeline.faults import advice


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command; a user's error is a message and exit status 2, without a traceback."""
    starting.done()
    # An exit, unlike the default action, runs the clean-up of `with` blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be bytes of any kind
    sys.stdout = cast(TextIO, _Printable(sys.stdout))
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}{advice(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


class _Printable:
    """A stream that spells out the control characters of names."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text as it can be shown; returns the number of characters."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def command_line(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for the options of `python -m MODULE`; its description keeps its lines."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def moved(command: str) -> None:
    """For the old name of a command: print the new one, and end."""
    print(f"error: this command is now: {command}", file=sys.stderr)
    sys.exit(2)
