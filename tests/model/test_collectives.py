"""The collectives have the names of this torch, whatever they are, and nothing warns."""

import importlib
import warnings

import torch
import torch.distributed as dist

from alexnet_dali.model import collectives
from alexnet_dali.train.parallel.ranks import join
from tests.ranks import run_ranks

OLD = {
    "all_gather_single": "all_gather_into_tensor",
    "reduce_scatter_single": "reduce_scatter_tensor",
}


def exchange(folder):
    with join("cpu") as ranks, warnings.catch_warnings():
        warnings.simplefilter("error")
        group, own = ranks.columns.group, torch.tensor([1.0 + ranks.rank])
        both, half = torch.empty(2), torch.empty(1)
        collectives.all_gather_single(both, own, group=group)
        collectives.reduce_scatter_single(half, both, group=group)
        assert both.tolist() == [1, 2] and half.tolist() == [2 * (1 + ranks.rank)]
        (folder / str(ranks.rank)).touch()


def test_both_collectives_work_and_nothing_warns(tmp_path):
    run_ranks(2, exchange, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_before_torch_2_13_they_have_their_older_names(monkeypatch):
    olds = {new: getattr(dist, old) for new, old in OLD.items()}
    with monkeypatch.context() as patch:
        for new in OLD:
            patch.delattr(dist, new, raising=False)
        importlib.reload(collectives)
        assert {new: getattr(collectives, new) for new in OLD} == olds
    importlib.reload(collectives)
