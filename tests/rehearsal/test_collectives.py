"""Every rank issues the same collectives in the same order, over all groups together.

NCCL needs this. If two ranks meet in two groups in different orders, each waits for the other for
ever, without a message. Here each rank runs alone. Its collectives are recorded, and answered as if
all ranks had sent the same.
"""

import os
import signal
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore
from torch.testing._internal.distributed.fake_pg import FakeStore

from alexnet_dali.model import collectives
from alexnet_dali.model.columns import Columns
from alexnet_dali.train.config import load
from alexnet_dali.train.parallel import ranks as distributed
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.trainer import Trainer
from tests.ranks import environment_of
from tests.recipes import TINY


class Notes:
    """Stands in for the project's collectives; records each call, its group and its tensor."""

    def __init__(self, monkeypatch, stop_after):
        self.calls, self._groups, self._meetings, self._stop_after = [], {}, 0, stop_after
        for name in ("all_gather_single", "reduce_scatter_single"):
            monkeypatch.setattr(collectives, name, getattr(self, name))
        for name in ("all_reduce", "all_gather_object"):
            monkeypatch.setattr(dist, name, getattr(self, name))

    def know(self, ranks: Ranks):
        self._groups = {
            id(ranks.columns.group): "column",
            id(ranks.data_group): "data",
            id(ranks.exchange_group): "exchange",
            id(ranks.control_group): "control",
        }

    def _note(self, what, group, tensor):
        shape = () if tensor is None else (tuple(tensor.shape), str(tensor.dtype))
        self.calls.append((what, self._groups[id(group)], *shape))

    def all_gather_single(self, both, own, group=None, async_op=False):
        self._note("all_gather", group, own)
        for part in both.chunk(len(both) // len(own)):
            part.copy_(own)
        return _Done() if async_op else None

    def reduce_scatter_single(self, own, parts, group=None):
        self._note("reduce_scatter", group, own)
        own.copy_(parts.chunk(len(parts) // len(own))[0])

    def all_reduce(self, tensor, operation=dist.ReduceOp.SUM, group=None, async_op=False):
        self._note("all_reduce", group, tensor)
        if self._groups[id(group)] == "control":
            self._meetings += 1
            if len(tensor) > 1:
                tensor[-1] = 1.0  # a step takes a second: the ranks meet after each
            if len(tensor) == 4:
                tensor[1] = self._meetings % 2  # as if the main rank's clock had asked for a line
            if self._stop_after and self._meetings >= self._stop_after:
                tensor[0] = signal.SIGTERM  # as if some rank had been told to stop
        return _Done() if async_op else None

    def all_gather_object(self, states, state, group=None):
        self._note("all_gather_object", group, None)
        states[:] = [state] * len(states)


class _Done:
    def wait(self):
        pass


def run(rank, world_size, options, monkeypatch, stop_after=None):
    """The collectives that one of `world_size` ranks issues over a whole run."""
    monkeypatch.setattr(distributed.dist, "new_group", partial(_without_backend, dist.new_group))
    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        ranks = distributed._in_pairs(rank, world_size, torch.device("cpu"), 1)
        notes = Notes(monkeypatch, stop_after)
        notes.know(ranks)
        status = Trainer(load(options), ranks).fit()
        assert status == (128 + signal.SIGTERM if stop_after else 0)
        return notes.calls
    finally:
        dist.destroy_process_group()
        monkeypatch.undo()


def _without_backend(new_group, *arguments, backend=None, **options):
    return new_group(*arguments, **options)


@pytest.fixture
def options(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    own = [
        "--data.root",
        str(prepared),
        "--train.batch_size",
        "16",
        "--train.epochs",
        "2",
        "--run.checkpoint_minutes",
        "0",
        "--run.log_seconds",
        "1000",
    ]
    return lambda rank: [
        str(tmp_path / "tiny.yaml"),
        *own,
        "--run.dir",
        str(tmp_path / f"run{rank}"),
    ]


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("stop_after", [None, 3])
def test_all_ranks_issue_the_same_collectives_in_the_same_order(
    world_size, stop_after, options, monkeypatch
):
    """The run trains, logs, evaluates after each epoch, and saves after each step.

    With `stop_after`, it stops at a signal.
    """
    calls = [
        run(rank, world_size, options(rank), monkeypatch, stop_after) for rank in range(world_size)
    ]
    assert {call[1] for call in calls[0]} == {
        "column",
        "exchange",
        "control",
        *(["data"] if world_size > 2 else []),
    }
    assert all(own == calls[0] for own in calls)


def test_a_rank_that_saves_before_it_evaluates_is_detected(options, monkeypatch):
    end_epoch = Trainer._end_epoch

    def save_first(self):
        if self.ranks.rank == 1:
            self.save()
        end_epoch(self)

    calls = []
    for rank in range(2):
        monkeypatch.setattr(Trainer, "_end_epoch", save_first)
        calls.append(run(rank, 2, options(rank), monkeypatch))
    assert sorted(map(str, calls[0])) == sorted(map(str, calls[1])) and calls[0] != calls[1]


@pytest.mark.parametrize(
    "device, own, expected", [("cuda", None, "1"), ("cuda", "0", "0"), ("cpu", None, None)]
)
def test_nccl_takes_the_order_of_the_host(device, own, expected, monkeypatch):
    """It reads its environment when the first group is made; what the user has set there stays."""
    name, found = "NCCL_LAUNCH_ORDER_IMPLICIT", []
    if own is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, own)
    monkeypatch.setattr(os, "environ", os.environ | environment_of(0, 2, 29500))
    where = torch.device(device)
    monkeypatch.setattr(distributed, "_device", lambda *arguments: where)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(distributed, "meet", lambda *arguments: HashStore())
    monkeypatch.setattr(
        dist, "init_process_group", lambda *arguments, **options: found.append(os.environ.get(name))
    )
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(
        distributed, "_in_pairs", lambda *arguments: Ranks(*arguments, columns=Columns((0,)))
    )
    with distributed.join(device):
        assert found == [expected]
