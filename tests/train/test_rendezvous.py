"""How ranks meet: late and missing ones, variables left behind, a torchrun that is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from alexnet_dali.pipeline.system.faults import ResourceError
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.parallel import rendezvous
from alexnet_dali.train.parallel.rendezvous import Place, meet
from tests.processes import Started, command
from tests.ranks import environment_of, free_port
from tests.recipes import TINY

LEFT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def train(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return [str(tmp_path / "tiny.yaml"), "--data.root", prepared, "--run.dir", tmp_path / "run"]


def said(process, words, seconds=30):
    """Wait until it has said these words on stderr; returns all of it."""
    end = time.monotonic() + seconds
    while words not in process.errors():
        assert time.monotonic() < end and process.poll() is None, process.errors()
        time.sleep(0.05)
    return process.errors()


def evaluate(folder, prepared):
    from alexnet_dali.tools import evaluate
    from alexnet_dali.tools.cli import run

    assert rendezvous._TOLD_AFTER == 10
    rendezvous._TOLD_AFTER = 1
    run(evaluate.main, [str(folder), "--data", str(prepared), "--device", "cpu"])


@pytest.mark.slow
@pytest.mark.parametrize("rank, missing", [(0, "1 of 2 ranks (1)"), (1, "rank 0 ([Errno 111]")])
def test_leftovers_of_a_launcher_are_named_and_signals_end_the_wait(
    rank, missing, trained, prepared
):
    port = free_port()
    left = {name: value for name, value in environment_of(rank, 2, port).items() if name in LEFT}
    process = Started(evaluate, trained, prepared, environment=left)
    (line,) = said(process, "\n").splitlines()
    assert line.startswith(f"rank {rank} waits for {missing}") and f"127.0.0.1:{port}" in line
    assert f"RANK={rank}, WORLD_SIZE=2, MASTER_ADDR=127.0.0.1, MASTER_PORT={port}" in line
    assert line.endswith(f"to run alone: unset {' '.join(LEFT)}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "expected a rank below the number of ranks"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "found RANK=-1, WORLD_SIZE=2; to run alone: unset"),
        ({"RANK": "one"}, "found RANK=one; to run alone: unset RANK"),
        ({"WORLD_SIZE": "2"}, "says WORLD_SIZE=2; to run alone: unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "in MASTER_ADDR and MASTER_PORT"),
        (environment_of(0, 2, 70000), "in MASTER_ADDR and MASTER_PORT"),
    ],
)
@pytest.mark.slow
def test_what_an_environment_can_not_mean_is_one_line(variables, message, train):
    process = command("-m", "alexnet_dali.train", *train, environment=variables)
    (line,) = process.communicate()[1].splitlines()
    assert process.returncode == 2 and line.startswith("error: ") and message in line


def test_an_empty_variable_says_nothing(train, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert main([*map(str, train), "--run.max_steps", "1"]) == 0


@pytest.mark.slow
def test_a_port_that_another_run_has_and_an_interface_that_is_not_there(train):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = command(
            "-m", "alexnet_dali.train", *train, environment=environment_of(0, 2, port)
        )
        (line,) = process.communicate()[1].splitlines()
    assert f"error: rank 0 can't listen at 127.0.0.1:{port}" in line and "MASTER_PORT" in line
    ranks = [
        command("-m", "alexnet_dali.train", *train, environment=variables)
        for variables in (
            environment_of(rank, 2, port) | {"GLOO_SOCKET_IFNAME": "nowhere0"} for rank in range(2)
        )
    ]
    (line,) = ranks[0].communicate()[1].splitlines()
    assert "error: GLOO_SOCKET_IFNAME is nowhere0, and this machine has no nowhere0" in line
    assert "lo" in line.rsplit("expected some of", 1)[1]
    ranks[1].kill()


def place(port, is_torchruns=False, launcher=None):
    return Place("127.0.0.1", port, is_torchruns, "0", launcher, "RANK=0")


def come(rank, port):
    time.sleep(rank / 2)
    store = meet(place(port), rank, 3)
    store.set(f"met {rank}", "yes")
    store.wait([f"met {other}" for other in range(3)])


def test_ranks_that_come_late_are_waited_for():
    port = free_port()
    ranks = [Started(come, rank, port) for rank in (1, 2, 0)]
    assert [rank.wait() for rank in ranks] == [0, 0, 0]


def test_what_an_earlier_attempt_said_does_not_count(monkeypatch):
    """torchrun keeps the store: rank 1 of the attempt before is not there any more."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = place(store.port, is_torchruns=True)
    dist.PrefixStore("attempt 0 of 2", store).append("here", "1 ")
    monkeypatch.setattr(rendezvous, "_MEETS_WITHIN", timedelta(seconds=1))
    meet(found, 0, 2)
    with pytest.raises(ResourceError, match=r"in vain for 1 of 2 ranks \(1\) at 127"):
        meet(found._replace(attempt="1"), 0, 2)


def test_a_torchrun_that_is_gone_is_not_waited_for(monkeypatch):
    """Its process, or the store that it kept."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(ResourceError, match="torchrun is gone"):
        meet(place(store.port, True, launcher=os.getppid() + 1), 0, 2)
    monkeypatch.setattr(rendezvous, "_TOLD_AFTER", 0.2)
    with pytest.raises(ResourceError, match="torchrun is gone"):
        meet(place(free_port(), True, launcher=os.getppid()), 0, 2)


@pytest.mark.slow
def test_ranks_end_where_torchrun_is_killed_in_its_first_seconds(train):
    """While they import what they need."""
    launch = ["-m", "torch.distributed.run", "--local-addr=127.0.0.1", "--standalone"]
    command = [sys.executable, *launch, "--nproc_per_node=2", "-m", "alexnet_dali.train"]
    process = subprocess.Popen(
        [*command, *map(str, train), "--train.epochs", "100000", "--optim.schedule", "multistep"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(ranks := listed.read_text().split()) < 2:
        time.sleep(0.02)
    time.sleep(0.5)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.1)
