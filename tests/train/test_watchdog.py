"""Ranks that hang or die are named by the others."""

import math
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from alexnet_dali.model.columns import Columns
from alexnet_dali.pipeline.system import pauses
from alexnet_dali.train.checkpoints.checkpoint import how_to_resume
from alexnet_dali.train.parallel import ranks as distributed
from alexnet_dali.train.parallel import watchdog
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.parallel.watchdog import Progress, Watch
from tests.processes import Started
from tests.ranks import free_port
from tests.recipes import TINY


@pytest.fixture
def watches(tmp_path, monkeypatch):
    """Watches of two ranks, which meet in this process."""
    resume = partial(how_to_resume, tmp_path)
    store = dist.TCPStore("127.0.0.1", free_port(), is_master=True, timeout=timedelta(seconds=20))
    monkeypatch.setattr(watchdog, "_SILENT", 0.5)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    started = []

    def start(seconds, device="cpu"):
        for rank in range(2):
            ranks = Ranks(rank, 2, torch.device(device), 1, Columns.whole(1), store=store)
            progress = Progress()
            progress.at("forward", 7 + rank)
            watch = Watch(ranks, resume, progress, seconds)
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
    until(lambda: first._ranks[1].step == 8 and second._ranks[0].step == 7)
    first.stop()  # as if stopped: it sends nothing any more
    until(lambda: bool(second.gone()))
    assert [one.rank for one in second.gone()] == [0] and second.is_leader()
    until(lambda: bool(ended))
    said = capsys.readouterr().err
    assert "warning: no progress for" in said
    assert "rank 0 on" in said and "(last heard: forward, step 7) is silent" in said
    assert "error:" in said and "so it begins afresh" in said


def test_ranks_that_get_on_are_left_alone_and_stalled_ones_are_listed(watches, capsys):
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
    assert len(first._ranks) == 2


def test_a_run_that_hangs_ends_even_where_nothing_can_be_said(watches, monkeypatch):
    """stderr's reader is gone: without its thread, nothing would end the run."""

    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    start, ended = watches
    start(seconds=0.3)
    until(lambda: bool(ended))


def test_on_gpus_a_rank_that_is_gone_ends_the_run_long_before_one_that_hangs(
    watches, capsys, monkeypatch
):
    """NCCL never tells the main threads, which stall here as in a collective."""
    monkeypatch.setattr(watchdog, "_LOST_AFTER", 0.6)
    start, ended = watches
    (first, _), (second, _) = start(seconds=1000, device="cuda")
    until(lambda: first._ranks[1].step == 8 and second._ranks[0].step == 7)
    time.sleep(1)
    assert not ended  # all live, and may take as long as they do
    first.stop()
    until(lambda: bool(ended))
    said = capsys.readouterr().err
    assert said.startswith("error: no progress for") and "rank 0 on" in said
    assert "(last heard: forward, step 7) is silent" in said and "the run is ended; rerun" in said


def stick(rank, port):
    watchdog._LOST_AFTER = 2.0
    store = dist.TCPStore("127.0.0.1", port)
    ranks = Ranks(rank, 2, torch.device("cuda"), 1, Columns.whole(1), store=store)
    with watchdog.watching(ranks, lambda: "rerun", 1000) as progress:
        progress.at("backward", 3)
        store.set(f"stuck {rank}", "")
        time.sleep(600)  # in a collective of NCCL


def test_on_gpus_a_rank_that_is_stuck_ends_by_itself_once_its_partner_is_killed():
    port = free_port()
    store = dist.TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=60))
    ranks = [Started(stick, rank, port) for rank in range(2)]
    store.wait(["stuck 0", "stuck 1", "heartbeat/finding of term 0"])
    ranks[0].kill()
    said = ranks[1].communicate(timeout=60)[1]
    assert ranks[1].returncode == 1
    (line,) = said.splitlines()
    assert line.startswith("error: no progress for") and "rank 0 on" in line


def test_on_gpus_a_rank_whose_store_is_gone_ends_too(watches, capsys, monkeypatch):
    monkeypatch.setattr(watchdog, "_LOST_AFTER", 0.6)

    def lost(*_):
        raise dist.DistNetworkError("Broken pipe")

    start, ended = watches
    second = start(seconds=1000, device="cuda")[1][0]
    until(lambda: second._ranks[0].step == 7)
    monkeypatch.setattr(second._heartbeats, "send", lost)
    until(lambda: bool(ended))
    said = capsys.readouterr().err
    assert said.startswith("error: no progress for") and "rank 1 on" in said
    assert "torchrun's store is gone" in said


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


class FakeStore:
    """A store in this process, which counts the calls of each of its clones."""

    def __init__(self, kept=None):
        self.kept = {} if kept is None else kept
        self.calls = 0

    def clone(self):
        return FakeStore(self.kept)

    def set(self, key, value):
        self.calls += 1
        self.kept[key] = value.encode()

    def get(self, key):
        self.calls += 1
        return self.kept[key]

    def multi_get(self, keys):
        self.calls += 1
        return [self.kept[key] for key in keys]

    def check(self, keys):
        self.calls += 1
        return all(key in self.kept for key in keys)

    def compare_set(self, key, expected, desired):
        self.calls += 1
        if self.kept.get(key, b"") == expected.encode():
            self.kept[key] = desired.encode()
        return self.kept[key]

    def add(self, key, amount):
        self.calls += 1
        self.kept[key] = str(int(self.kept.get(key, b"0")) + amount).encode()
        return int(self.kept[key])


def watches_by_hand(world_size, watched, store):
    """Watches whose rounds a test takes one by one."""
    return {
        rank: Watch(
            Ranks(rank, world_size, torch.device("cpu"), 1, Columns.whole(1), store=store),
            lambda: "rerun",
            Progress(),
            60,
        )
        for rank in watched
    }


@pytest.mark.parametrize("world_size", [4, 64, 1000])
def test_the_store_is_called_as_often_for_a_rank_however_many_there_are(world_size):
    watches = watches_by_hand(world_size, (0, 1, world_size - 1), FakeStore())
    stores = [watch._heartbeats._store for watch in watches.values()]
    for _ in range(10):
        before = [store.calls for store in stores]
        for watch in watches.values():
            watch._round()
    calls = [store.calls - earlier for store, earlier in zip(stores, before)]
    assert calls == [4, 3, 3]
    assert stores[0].calls == 40 + world_size  # once, a place for each heartbeat


def test_where_the_leader_is_gone_another_rank_takes_over_and_names_who_is_gone(monkeypatch):
    """Ranks 0 to 2 stop at once. No living rank is ever named; rank 0 follows when it is back."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watches = watches_by_hand(8, range(8), FakeStore())

    def take_rounds(count, living):
        for _ in range(count):
            now[0] += 1.0
            for rank in living:
                watches[rank]._round()
                named = {one.rank for one in watches[rank].gone()}
                assert named <= set(range(8)) - set(living)

    take_rounds(20, range(8))
    assert [rank for rank in range(8) if watches[rank].is_leader()] == [0]
    living = [7, 4, 3, 5, 6]
    take_rounds(9, living)
    assert [rank for rank in living if watches[rank].is_leader()] == [7]
    for rank in living:
        assert [one.rank for one in watches[rank].gone()] == [0, 1, 2]
    watches[0]._round()
    assert not watches[0].is_leader()
    take_rounds(3, living[1:])  # and the second leader, too
    assert [rank for rank in living[1:] if watches[rank].is_leader()] == [4]


def test_a_process_that_was_stopped_has_not_stalled(monkeypatch, capsys):
    """Three minutes of Ctrl-Z, then three in which it could have gone on."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pauses, "_state", (0.0, math.inf))
    ranks = Ranks(0, 1, torch.device("cpu"), 1, Columns.whole(1))
    watch = Watch(ranks, lambda: "rerun", Progress(), 60)
    watch._progress.at("forward", 7)
    watch._round()

    def sleep(seconds):
        monkeypatch.setattr(watch._end, "wait", lambda pause: now.__setitem__(0, now[0] + seconds))
        assert not watch._sleep()
        watch._round()

    sleep(181.0)
    assert not capsys.readouterr().err and watch._progress.patience(60) == 60
    for _ in range(181):
        sleep(1.0)
    assert watch._ends and "no progress for 181 s" in capsys.readouterr().err


def test_a_killed_partner_is_one_line_with_its_rank_and_where_to_go_on(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "alexnet_dali.train",
    ]
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
