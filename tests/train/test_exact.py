"""In float64, the number of ranks does not matter: the same JPEG files, the same losses."""

import numpy as np
import pytest
import torch

from alexnet_dali.tools.bench import exact
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.record.metrics import read_metrics
from tests.ranks import launch
from tests.recipes import TINY

STEPS = 24  # updates


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory):
    """A run's losses by step, by precision and number of ranks."""
    folder = tmp_path_factory.mktemp("exact")
    (folder / "tiny.yaml").write_text(TINY)

    def losses(precision, num_ranks):
        run = folder / f"{precision}-{num_ranks}"
        words = [folder / "tiny.yaml", "--data.root", prepared, "--run.dir", run, "--train.epochs"]
        words += [8, "--optim.schedule", "multistep", "--train.precision", precision]
        words += ["--model.init_std.default", 0.1, "--optim.milestones", "[5]"]
        words = [*map(str, words)]
        if num_ranks == 1:
            assert main(words) == 0
        elif not run.exists():
            ranks = launch(num_ranks, "-m", "alexnet_dali.train", *words)
            assert ranks.wait() == [0] * num_ranks, [rank.errors() for rank in ranks.ranks]
        return read_metrics(run, "train/loss")

    losses.folder = folder
    return losses


@pytest.mark.slow
def test_losses_on_1_2_and_4_ranks_are_equal_to_the_last_digits_in_fp64(runs, capsys):
    alone = runs("fp64", 1)
    assert [*alone] == [*range(1, STEPS + 1)] and len(set(alone.values())) == STEPS
    for num_ranks in (2, 4):
        found = runs("fp64", num_ranks)
        difference = max(abs(found[step] - alone[step]) for step in alone)
        print(f"fp64, {num_ranks} ranks: {difference:.1e}")
        assert found.keys() == alone.keys() and difference < 1e-13
    for tag in ("val/loss", "val/top1_error"):
        found = [[*read_metrics(runs.folder / f"fp64-{n}", tag).values()] for n in (1, 2, 4)]
        np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=0, atol=1e-13)
    capsys.readouterr()
    exact.main([str(runs.folder / f"fp64-{num_ranks}") for num_ranks in (1, 2, 4)])
    assert "fp64-4" in capsys.readouterr().out


@pytest.mark.slow
def test_in_fp32_they_drift_apart(runs):
    """What the test above would find, if anything were computed in less than float64."""
    alone, four = runs("fp32", 1), runs("fp32", 4)
    assert max(abs(four[step] - alone[step]) for step in alone) > 1e-8
    double = runs("fp64", 1)
    assert 1e-9 < abs(double[1] - alone[1]) < 1e-5  # the same weights and images to begin with


@pytest.mark.slow
def test_every_number_of_an_fp64_run_is_a_double(runs):
    runs("fp64", 1)
    state = checkpoint.load(checkpoint.newest(runs.folder / "fp64-1/checkpoints"))
    tensors = [*state["model"].values(), *state["momentum"].values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    assert any((tensor != tensor.float()).any() for tensor in tensors)
