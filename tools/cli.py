"""How commands fail: a message and an exit status."""

import io
import signal
import sys
from collections.abc import Callable


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command; a user's error is a message and exit status 2, without a traceback."""
    # An exit, unlike the default action, runs the clean-up of `with` blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be bytes of any kind
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def moved(command: str) -> None:
    """For the old name of a command: print the new one, and end."""
    print(f"error: this command is now: {command}", file=sys.stderr)
    sys.exit(2)
