"""Ranks that hang or die are named by the others."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from model.columns import Columns
from tests.ranks import free_port
from tests.recipes import TINY
from train import alive, distributed
from train.alive import Progress, Watch
from train.distributed import Ranks


@pytest.fixture
def watches(tmp_path, monkeypatch):
    """Watches of two ranks, which meet in this process."""
    store = dist.TCPStore("127.0.0.1", free_port(), is_master=True, timeout=timedelta(seconds=20))
    monkeypatch.setattr(alive, "_SILENT", 0.5)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    started = []

    def start(seconds):
        for rank in range(2):
            ranks = Ranks(rank, 2, torch.device("cpu"), 1, Columns.whole(1), store=store)
            progress = Progress()
            progress.at("forward", 7 + rank)
            watch = Watch(ranks, tmp_path, progress, seconds)
            watch._pause = 0.1
            watch.start()
            started.append((watch, progress))
        return started

    yield start, ended
    for watch, _ in started:
        watch.stop()


def until(happened, seconds=10.0):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)
    assert happened()


def test_a_rank_that_stops_is_named_by_the_first_that_lives(watches, capsys):
    start, ended = watches
    (first, _), (second, _) = start(seconds=0.3)
    until(lambda: first._seen[1].step == 8 and second._seen[0].step == 7)
    first.stop()  # as if stopped: it tells nothing any more
    until(lambda: bool(second.gone()))
    assert [one.rank for one in second.gone()] == [0] and second.speaks()
    until(lambda: bool(ended))
    said = capsys.readouterr().err
    assert "warning: no progress for" in said
    assert "rank 0 on" in said and "(last heard: forward, step 7) is silent" in said
    assert "error:" in said and "so it begins afresh" in said


def test_ranks_that_get_on_are_left_alone_and_those_that_stand_still_are_listed(watches, capsys):
    start, ended = watches
    (first, progress), (_, other) = start(seconds=0.6)
    for step in range(30):
        progress.at("forward", step)
        other.at("waiting for data", step)
        time.sleep(0.05)
    assert not capsys.readouterr().err and not ended
    until(lambda: bool(ended))
    said = capsys.readouterr().err
    assert "all ranks live" in said and "(last heard: waiting for data, step 29)" in said
    assert len(first._seen) == 2


def test_patience_is_ten_times_the_longest_wait_so_far_and_longer_at_the_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    assert progress.patience(60) == 600  # it starts
    now[0] = 40.0
    progress.at("forward", 0)
    assert progress.patience(60) == 60
    now[0] = 60.0
    progress.at("backward", 0)
    assert progress.patience(60) == 200
    progress.at("saving", 1)
    assert progress.patience(60) == 600


def test_a_killed_partner_is_one_line_with_its_rank_and_where_to_go_on(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "train"]
    options = ["--data.root", str(prepared), "--run.dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, *launch, str(tmp_path / "tiny.yaml"), *options, "--train.epochs", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    while "epoch 3 ends" not in process.stdout.readline():
        pass
    ranks = [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if one.environ().get("RANK") == "0"
    ]
    ranks[0].kill()
    _, said = process.communicate(timeout=120)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert (
        "rank 0 on" in line
        and "is gone (killed, or out of memory?); rerun the same command to resume from step"
        in line
    )
    newest = sorted((tmp_path / "run/checkpoints").glob("*.pt"))[-1]
    assert line.endswith(f"step {int(Path(newest).stem.split('-')[1])}")


def test_torchrun_is_told_to_end_only_where_it_would_start_ranks_again(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    distributed.end_job()
    assert not sent
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    distributed.end_job()
    assert sent == [(os.getppid(), signal.SIGTERM)]
