"""Ranks that have different options, that fail, or that are told to stop.

No rank waits for ever, and users are told why.
"""

import errno
import fcntl
import os
import signal
import socket
import time
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from alexnet_dali.pipeline.system.files import locked, resumable_folder
from alexnet_dali.train.checkpoints.run_folder import claim
from alexnet_dali.train.parallel import agreement
from alexnet_dali.train.parallel.agreement import StopRequest
from alexnet_dali.train.parallel.ranks import join
from tests.processes import command
from tests.ranks import environment_of, free_port, run_ranks
from tests.recipes import TINY


def test_ranks_with_different_options_say_which_differ(prepared, tmp_path):
    """Numbers that decide the weights, numbers that do not, and lists."""
    more = ["--optim.lr", "0.5", "--run.log_seconds", "3", "--model.cross_talk", "[conv4]"]
    (tmp_path / "tiny.yaml").write_text(TINY)
    port, words = (
        free_port(),
        ["-m", "alexnet_dali.train", tmp_path / "tiny.yaml", "--data.root", prepared],
    )
    ranks = [
        command(
            *words, "--run.dir", tmp_path / "run", *own, environment=environment_of(rank, 2, port)
        )
        for rank, own in enumerate(([], more))
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    for what in ("optim.lr: 0.02 and 0.5", "run.log_seconds: 0.0 and 3.0", "model.cross_talk: "):
        assert what in errors[0]
    assert "Traceback" not in errors[0]
    assert not (tmp_path / "run").exists()


def fail_while_the_other_waits(error):
    # NCCL does not shut down while another rank waits in a collective
    with (
        mock.patch.object(dist, "destroy_process_group", lambda: time.sleep(1000)),
        join("cpu") as ranks,
    ):
        if ranks.is_main:
            raise error
        ranks.all_reduce_max([0])


@pytest.mark.parametrize(
    "error, status", [(ValueError("too bad"), 2), (KeyError("a mistake"), 1), (SystemExit(7), 7)]
)
def test_a_rank_that_fails_does_not_wait_for_the_others(error, status):
    with pytest.raises(mp.ProcessExitedException) as caught:
        run_ranks(2, fail_while_the_other_waits, error)
    assert caught.value.exit_code == status


@pytest.mark.parametrize("asked, gpus", [("auto", 1), ("cuda", 1), ("cuda", 0)])
def test_fewer_gpus_than_ranks_are_refused_and_without_any_auto_means_the_cpu(
    asked, gpus, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with (
        pytest.raises(
            ValueError, match=f"run.device is {asked} and 2 ranks run here, but {gpus} GPUs"
        ),
        join(asked),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with join("auto") as ranks:
        assert ranks.device.type == "cpu"


def test_two_signals_at_once_are_one_request_and_a_later_signal_is_another(monkeypatch):
    # Background jobs of a shell ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert request.signal == signal.SIGTERM
            monkeypatch.setattr(agreement, "_PATIENCE", -1)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_another_guard(number, monkeypatch, tmp_path):
    """A file that one process alone can make; one that a killed process made is taken over."""

    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    first = locked(tmp_path / "lock", "in use")
    with pytest.raises(ValueError, match=r"in use \(process .*; if that is gone, rm .*lock-held"):
        locked(tmp_path / "lock", "in use")
    first.release()
    held = f"{2**22}\n{socket.gethostname()}\n"  # no process has that number
    (tmp_path / "lock-held").write_text(held)
    locked(tmp_path / "lock", "in use").release()


def test_a_lock_that_fails_otherwise_is_named(monkeypatch, tmp_path):
    def flock(*arguments):
        raise OSError(errno.EIO, "sick")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=r"sick: '.*lock'"):
        locked(tmp_path / "lock", "in use")


def test_a_held_lock_is_told(monkeypatch, tmp_path):
    def flock(*arguments):
        raise OSError(errno.EAGAIN, "held")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match="in use"):
        claim(tmp_path / "run", config=None)
    with (
        pytest.raises(ValueError, match="being made"),
        resumable_folder(tmp_path / "prepared", "x"),
    ):
        pass
