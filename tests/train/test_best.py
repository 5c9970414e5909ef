"""The best epoch's checkpoint: right after kills, at whatever moment."""

import errno
import json
import os

import pytest

from alexnet_dali.tools import evaluate
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.evaluation import ErrorRates
from alexnet_dali.train.trainer import Trainer
from tests.recipes import TINY

ERRORS = [0.9, 0.7, 0.8, 0.7]  # after each of four epochs of three steps: the second is the best


@pytest.fixture
def train(prepared, tmp_path, monkeypatch):
    """Train with these validation errors; returns the exit status."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = [str(tmp_path / "tiny.yaml"), "--data.root", str(prepared)]
    arguments += ["--optim.patience", "9", "--run.keep_checkpoints", "1", "--run.pictures", "false"]
    monkeypatch.setattr(
        Trainer, "validate", lambda self: ErrorRates(ERRORS[self.epoch - 1], 0.5, 15, 1.0)
    )
    return lambda folder, *more: main([*arguments, "--run.dir", str(folder), *more])


def steps(folder):
    """The step that each checkpoint holds, by its name."""
    paths = sorted((folder / "checkpoints").iterdir())
    return {path.name: checkpoint.load(path)["step"] for path in paths}


WHOLE = {"best.pt": 6, "step-0000000012.pt": 12}


def test_the_checkpoint_of_the_lowest_error_is_kept(train, tmp_path, capsys, prepared):
    folder = tmp_path / "run"
    assert train(folder) == 0
    assert steps(folder) == WHOLE
    last = capsys.readouterr().out.splitlines()[-1]
    path = folder / "checkpoints/best.pt"
    assert last == (
        "finished at step 12, but the network is at chance level: try larger initial "
        "weights (--model.init_std) or another --optim.lr in another --run.dir; "
        f"best validation top-1 error 70.00% after epoch 2 ({path}), "
        f"last 70.00%; results are in {folder}"
    )
    evaluate.main([str(path), "--data", str(prepared), "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["networks"][0]["step"] == 6
    (folder / "metrics.jsonl").unlink()
    assert train(folder) == 0  # nothing is left to do
    assert capsys.readouterr().out.splitlines()[-1] == last


class Killed(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("moment", ["before the save", "before the name", "after the name"])
def test_a_kill_changes_nothing(moment, epoch, train, tmp_path, monkeypatch):
    """Between evaluation and save, between save and best.pt, or before old ones are removed."""
    save, keep = checkpoint.save, checkpoint.keep_best
    step = 3 * epoch

    def killed_save(folder, state, *more):
        if state["step"] == step:
            raise Killed
        save(folder, state, *more)

    def killed_keep(path):
        if checkpoint.step_of(path) == step:
            if moment == "after the name":
                keep(path)
            raise Killed
        keep(path)

    with monkeypatch.context() as patched:
        if moment == "before the save":
            patched.setattr(checkpoint, "save", killed_save)
        else:
            patched.setattr(checkpoint, "keep_best", killed_keep)
        if epoch == 3 and moment != "before the save":
            assert train(tmp_path / "run") == 0  # the third is not the best: nothing is named
        else:
            with pytest.raises(Killed):
                train(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    assert steps(tmp_path / "run") == WHOLE


def test_pieces_end_with_the_same_best(train, tmp_path):
    for stop in (2, 3, 4, 6, 7, 12):
        assert train(tmp_path / "run", "--run.max_steps", str(stop)) == 0
    assert steps(tmp_path / "run") == WHOLE


def test_where_files_have_one_name_the_best_is_a_copy(train, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert train(tmp_path / "run") == 0
    assert steps(tmp_path / "run") == WHOLE
