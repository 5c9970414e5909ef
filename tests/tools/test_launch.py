"""The launcher: torchrun's exit status and last words made plain. Ranks are small scripts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from alexnet_dali.tools.launch import launcher

FAILS = """
import os, sys, time
from alexnet_dali.train.parallel.ranks import end_job, report_error
if os.environ["RANK"] == "1":
    time.sleep(60)
status = report_error({error})
{then}
sys.exit(status)
"""
REFUSED, FAULT = "ValueError('no such data')", "OSError('disk full')"
DIES = "import os, time; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9); time.sleep(60)"
WAITS = "import time; print('there', flush=True); time.sleep(60)"


@pytest.fixture
def launch(tmp_path):
    """Start two ranks of a script; a look-up of the machine's name fails after minutes."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\n"
        "def look_up(*arguments):\n"
        "    time.sleep(300)\n"
        "socket.getfqdn = look_up\n"
    )

    def start(script, *options):
        (tmp_path / "rank.py").write_text(script)
        first, module, *here = launcher(2)
        return subprocess.Popen(
            [sys.executable, first, module, *options, *here, tmp_path / "rank.py"],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, options, status, last",
    [
        (FAILS.format(error=REFUSED, then=""), [], 2, "error: no such data"),
        (
            FAILS.format(error=REFUSED, then="end_job()"),
            ["--max-restarts=3"],
            2,
            "error: no such data",
        ),
        (FAILS.format(error=FAULT, then=""), [], 1, "error: disk full"),
        (DIES, [], 137, "error: rank 1 was ended by signal 9 (killed, or out of memory?)"),
    ],
    ids=["refused", "refused where it would restart", "a fault", "killed"],
)
def test_the_status_tells_what_has_happened_and_the_message_is_last(
    script, options, status, last, launch
):
    process = launch(script, *options)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert said.strip() == last, "one line, and nothing of torchrun's"


@pytest.mark.slow
def test_options_that_torchrun_refuses_are_one_line(launch):
    process = launch(WAITS, "--nnodes=2:1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1, said
    assert said.startswith("error: torchrun refuses its options (") and "max_nodes=1" in said


@pytest.mark.slow
def test_a_signal_is_passed_on_and_is_the_status(launch):
    process = launch(WAITS)
    assert process.stdout.readline() == "there\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 143
