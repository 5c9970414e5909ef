"""Learning rates that are changed in the middle of a run."""

from pathlib import Path

import pytest
import torch

from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints.run_folder import MAY_CHANGE
from alexnet_dali.train.optim import EpochSchedule, OptimConfig, PaperSGD, schedule
from alexnet_dali.train.record.metrics import read_metrics
from tests.recipes import TINY
from tests.train.test_train import assert_same_run, metrics

PLATEAU = ("--optim.patience", "9", "--run.pictures", "false")  # never stalls
BY_HAND = (*PLATEAU, "--optim.lr_at", "[[3, 0.001]]")
STEPS = ("--optim.schedule", "multistep", "--optim.milestones", "[3]")


def test_the_docs_list_what_may_change():
    page = (Path(__file__).parents[2] / "docs/train.md").read_text()
    table = page.partition("| option | may change |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [f"| `{option}` | {rule.when} |" for option, rule in MAY_CHANGE.items()]
    assert table.splitlines() == rows


@pytest.fixture
def train(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = [str(tmp_path / "tiny.yaml"), "--data.root", str(prepared)]
    return lambda folder, *more: main([*arguments, "--run.dir", str(folder), *more])


@pytest.mark.parametrize("change", [BY_HAND, (*PLATEAU, *STEPS)], ids=["by hand", "to steps"])
def test_a_run_changed_midway_and_killed_is_the_run_that_knew_it_from_the_start(
    change, train, tmp_path
):
    """Changed after four steps, inside the second epoch of three steps; stopped twice since."""
    assert train(tmp_path / "whole", *change) == 0
    rates = [line["train/lr"] for line in metrics(tmp_path / "whole") if "train/lr" in line]
    assert rates[:9] == [0.02] * 9 and rates[9:] == pytest.approx(
        [0.001 if change == BY_HAND else 0.002] * 3
    )
    assert train(tmp_path / "run", *PLATEAU, "--run.max_steps", "4") == 0
    for stop in ("5", "10", "12"):
        assert train(tmp_path / "run", *change, "--run.max_steps", stop) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    record = (tmp_path / "run/changes.txt").read_text()
    assert record.startswith("after epoch 1: optim.") and record.count("\n") == 1


def test_a_plateau_that_has_dropped_becomes_steps_that_have_dropped_as_often(
    train, tmp_path, capsys
):
    """The plateau drops after epochs 2, 3 and 4. A rate that would jump is refused."""
    plateau = ("--optim.patience", "1", "--run.pictures", "false")
    assert train(tmp_path / "run", *plateau) == 0
    steps = (*plateau, "--optim.schedule", "multistep", "--train.epochs", "6")
    assert train(tmp_path / "run", *steps, "--optim.milestones", "[5]") == 2
    assert "optim.schedule: plateau -> multistep" in capsys.readouterr().err
    assert train(tmp_path / "run", *steps, "--optim.milestones", "[2, 3, 4, 5]") == 0
    rates = read_metrics(tmp_path / "run", "train/lr")
    assert rates[12] == pytest.approx(2e-4) and rates[14] == pytest.approx(2e-5)
    assert rates[18] == pytest.approx(2e-6)


@pytest.mark.parametrize(
    "change, name",
    [
        (("--optim.lr_at", "[[1, 0.001]]"), "optim.lr_at"),  # would have been before
        (("--optim.schedule", "exponential"), "optim.schedule"),
        (("--optim.schedule", "multistep", "--optim.milestones", "[1]"), "optim.schedule"),
    ],
)
def test_what_would_have_been_otherwise_is_refused(change, name, train, tmp_path, capsys):
    assert train(tmp_path / "run", *PLATEAU, "--run.max_steps", "4") == 0
    assert train(tmp_path / "run", *PLATEAU, *change) == 2
    message = capsys.readouterr().err
    assert f"{name}: " in message and f"which may change: {MAY_CHANGE[name].when}" in message
    assert not (tmp_path / "run/changes.txt").exists()


@pytest.mark.parametrize("kind", ["plateau", "multistep", "exponential"])
def test_a_schedule_goes_on_from_the_rate_that_was_set(kind):
    """What it multiplies its own by goes for that one; a state restored anywhere goes on alike."""
    config = OptimConfig(
        lr=0.01,
        schedule=kind,
        patience=1,
        milestones=(1, 4),
        decay=100.0,
        lr_at=[(2, 0.3), (5, 0.07)],
    )
    errors = [0.5, 0.6, 0.4, 0.5, 0.3, 0.2, 0.1]
    own = {
        "plateau": [1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01],
        "multistep": [1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01],
        "exponential": [100 ** (-epoch / 7) for epoch in range(8)],
    }[kind]
    expected = [0.01 * share for share in own[:2]]
    expected += [0.3 * share / own[2] for share in own[2:5]]
    expected += [0.07 * share / own[5] for share in own[5:]]
    whole = schedule(config, epochs=7)
    rates = [whole.lr]
    for error in errors:
        whole.end_epoch(error)
        restored = schedule(config, epochs=7)
        restored.restore(whole.state())
        assert restored.lr == whole.lr
        whole = restored
        rates.append(whole.lr)
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[2] == 0.3 and rates[5] == 0.07


def test_a_schedule_that_warms_up_does_so_from_the_first_step_on(train, tmp_path, monkeypatch):
    """Three steps an epoch; a run that is stopped in its first epoch goes on alike."""
    rising = property(lambda self: self._config.lr * min(1, (self._completed + 1) / 4))
    monkeypatch.setattr(EpochSchedule, "lr", rising)
    options = ("--optim.schedule", "multistep")
    assert train(tmp_path / "whole", *options) == 0
    expected = [0.02 * share for share in (0.25, 0.5, 0.75, 1) for _ in range(3)]
    rates = read_metrics(tmp_path / "whole", "train/lr")
    assert [rates[step] for step in range(1, 13)] == pytest.approx(expected)
    assert train(tmp_path / "run", *options, "--run.max_steps", "2") == 0
    assert train(tmp_path / "run", *options) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_rate_set_by_hand_stays_where_the_schedule_is_at_0(monkeypatch):
    monkeypatch.setattr(EpochSchedule, "lr", property(lambda self: 0.01 * (self._completed < 1)))
    rates = schedule(OptimConfig(schedule="multistep", lr_at=[(2, 0.3)]), epochs=3)
    found = [rates.lr]
    for _ in range(3):
        rates.end_epoch(0.5)
        found.append(rates.lr)
    assert found == [0.01, 0, 0.3, 0.3]


def test_a_run_says_whether_its_rate_was_set_by_hand():
    config = OptimConfig(schedule="multistep", lr_at=[(2, 0.3)])
    optimizer = PaperSGD(torch.nn.Linear(2, 2).named_parameters(), config)
    assert optimizer.describe(0.3, 2) == ["learning rate is now 0.3 (by hand)"]
    assert optimizer.describe(0.001, 3) == ["learning rate is now 0.001 (multistep)"]
