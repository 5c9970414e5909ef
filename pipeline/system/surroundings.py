"""What a command finds when it starts: names' encoding, standard streams, a working folder."""

import os
import select
import sys


def read_names_as_utf8() -> None:
    """Start Python again, in its UTF-8 mode, where the locale is of another encoding.

    Names of files and classes are then the same everywhere; of files, bytes stay as they are.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_process() -> None:
    """End a process in which DALI or torch can't be imported, with what to do about it."""
    found = ""
    if sys.flags.optimize > 1:
        found = "Python runs with -OO (PYTHONOPTIMIZE=2), and DALI can't be imported then; unset it"
    try:
        os.chdir(os.getcwd())  # processes are started in it, too
    except OSError as error:
        found = f"the working folder can't be entered ({error}); cd to another"
    if found:
        print(f"error: {found}", file=sys.stderr)
        sys.exit(2)
    _check_compiler_cache()


def _check_compiler_cache() -> None:
    """Leave aside a folder for what torch compiles that can't be made; torch then takes its own.

    Without one, nothing that has an optimizer can be imported, compiled or not.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
    except OSError as error:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        print(f"warning: TORCHINDUCTOR_CACHE_DIR is left aside ({error})", file=sys.stderr)


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
