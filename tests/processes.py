"""Processes: started without seconds of imports, and looked up in /proc."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from alexnet_dali.pipeline.prepare import workers
from alexnet_dali.tools.paper import drawing, runs
from alexnet_dali.train import evaluation, trainer

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Have processes forked from a server that has imported what they need, and done nothing else.

    To be called after imports of the project, which choose for themselves.
    """
    needed = [module.__name__ for module in (workers, trainer, evaluation, drawing, runs)]
    # The first optimizer, and what averages gradients, would import these.
    needed += ["torch._dynamo", "torch.nn.parallel.distributed", "tests.frozen"]
    multiprocessing.set_forkserver_preload(needed)


class Started:
    """A function in a new process, which is used as a subprocess.Popen is."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> None:
        self._errors = tempfile.NamedTemporaryFile("r+")  # noqa: SIM115
        reader, writer = _CONTEXT.Pipe(duplex=False)
        variables = dict(os.environ | (environment or {}))
        streams = (writer, self._errors.name)
        forkserver.ensure_running()
        self._process = _CONTEXT.Process(
            target=_call, args=(streams, variables, own_session, _key(), function, arguments)
        )
        self._process.start()
        weakref.finalize(self, _end, self._process)  # pytest would wait for what a test has left
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; -n where signal n has ended it, None while it runs."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int:
        """What multiprocessing.connection.wait takes."""
        return self._process.sentinel

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Its exit status, once it has ended."""
        self._process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s: {self.errors()}"
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What is left of its output, and all its errors, once it has ended."""
        output = self.stdout.read()
        self.wait(timeout)
        return output, self.errors()

    def errors(self) -> str:
        """What it has said on stderr so far."""
        return Path(self._errors.name).read_text(errors="replace")


def _key() -> bytes | None:
    """What the fork server asks of its clients, from Python 3.14 on."""
    return getattr(forkserver._forkserver, "_forkserver_authkey", None)


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()


def _call(
    streams: tuple[Connection, str],
    variables: Mapping[str, str],
    own_session: bool,
    key: bytes | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    output, errors = streams
    os.dup2(output.fileno(), 1)
    output.close()
    said = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 2)
    os.close(said)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    # As multiprocessing's documentation has it: "a child process will just reuse the forkserver
    # started by its parent". It would start one of its own, which imports everything again.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    if key is not None:
        forkserver._forkserver._forkserver_authkey = key  # type: ignore[attr-defined]
    if own_session:
        os.setsid()
    function(*arguments)


def command(*words: object, **options: Any) -> Started:
    """`python WORDS` from the project's root: `-m MODULE`, or the path of a script, and its words.

    Imports are not part of it: where they are what is tested, start Python.
    """
    return Started(python, list(map(str, words)), **options)


def python(words: list[str]) -> None:
    """Run a module or a script with its words, as Python does."""
    os.chdir(ROOT)
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def run_at_once(line: list[str], env: Mapping[str, str], **_: Any) -> CompletedProcess[str]:
    """In the place of subprocess.run, for lines that begin with Python's path."""
    process = command(*line[1:], environment=env)
    output, errors = process.communicate()
    return CompletedProcess(line, process.wait(), output, errors)


def running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that `pid` has started, without multiprocessing's resource tracker."""
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()
    ]
