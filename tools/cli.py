"""How commands fail: a message and an exit status."""

import argparse
import io
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from alexnet_dali.pipeline.messages import printable
from alexnet_dali.pipeline.system.faults import advice, resource_error
from alexnet_dali.pipeline.system.surroundings import (
    nobody_reads,
    open_streams,
    read_names_as_utf8,
    silence_stdout,
)


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a command; a user's error is a message and exit status 2, without a traceback."""
    read_names_as_utf8()
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # An exit, unlike the default action, runs the clean-up of `with` blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be bytes of any kind
    sys.stdout = cast(TextIO, _Printable(sys.stdout))
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            silence_stdout()
            sys.exit(128 + signal.SIGPIPE)
        found = resource_error(error) if isinstance(error, RuntimeError) else error
        if found is None:
            raise
        print(f"error: {printable(str(found))}{advice(found)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def for_programs() -> TextIO:
    """Standard output for JSON and CSV, in which every character counts."""
    return sys.stdout.stream if isinstance(sys.stdout, _Printable) else sys.stdout


class _Printable:
    """A stream that spells out the control characters of names."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text as it can be shown; returns the number of characters."""
        return self.stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def command_line(command: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for the options of a command; its description keeps its lines."""
    return argparse.ArgumentParser(
        prog=command, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
