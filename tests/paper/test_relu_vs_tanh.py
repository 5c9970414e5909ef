import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.tools import cli
from alexnet_dali.tools.paper import figures, relu_vs_tanh, runs
from alexnet_dali.tools.paper.relu_vs_tanh import Curve, Result, epochs_to, factor
from alexnet_dali.train.config import load
from alexnet_dali.train.optim import PaperSGD
from tests.paper.pool import Pool, workers
from tests.processes import Started, children, running
from tests.recipes import TINY


def test_epochs_to_a_target_are_interpolated_between_epochs():
    assert epochs_to(0.25, [0.6, 0.4, 0.2]) == pytest.approx(2.75)
    assert epochs_to(0.25, [0.1]) == pytest.approx(5 / 6)  # starts at 100 % before the first epoch
    assert epochs_to(0.25, [0.6, 0.4]) == math.inf


def test_the_factor_compares_mean_epochs_or_is_a_lower_bound():
    def text(*tanh_errors, relu_errors=([0.5, 0.25], [0.5, 0.4, 0.25])):
        relu = Result(Curve("2012", "relu"), 0.1, list(relu_errors))
        return factor([relu, Result(Curve("2012", "tanh"), 0.1, list(tanh_errors))], "2012")

    assert text([0.5] * 4 + [0.25], [0.5] * 4 + [0.25]) == "tanh takes 2.0 times as long"
    # One seed took 5 epochs, the other more than 10: on average more than 7.5. ReLUs took 2.5.
    assert text([0.5] * 4 + [0.25], [0.5] * 10) == "tanh takes more than 3.0 times as long"
    assert text([0.5] * 4 + [0.25], []) == "no factor, as a run diverged"
    assert text([0.5] * 3, relu_errors=[[0.5] * 3]) == "no factor, as ReLUs did not come to 25%"


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_modern_weights_train_as_if_pixels_were_divided_by_64(activation):
    """In float64, two networks have the same losses.

    One has scaled weights and a scaled learning rate, the other scaled pixels.
    """
    data = ["--data.root", "x"]
    options = [str(relu_vs_tanh.CONFIG), *data, "--model.activation", activation]
    scaled = load([*options, *relu_vs_tanh._weights(Curve("modern", activation))])
    assert scaled.model.init_std.of("conv1") == pytest.approx(
        math.sqrt((2 if activation == "relu" else 1) / 75) / 64
    )
    draw = torch.Generator().manual_seed(0)
    batches = [
        (64 * torch.randn(4, 3, 32, 32, generator=draw).double(), torch.randint(10, (4,)))
        for _ in range(4)
    ]
    losses = []
    for divisor in (1, 64):
        model = AlexNet(scaled.model, 10, 32).double()
        with torch.no_grad():
            model.own_columns[0].conv1.weight.mul_(divisor)
        optim = scaled.optim if divisor == 1 else load(options).optim
        optimizer = PaperSGD(model.named_parameters(), optim)
        losses.append([])
        for step, (images, labels) in enumerate(batches):
            loss = F.cross_entropy(
                model(images / divisor, DropoutMasks(0, step, images.device)), labels
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert losses[0][0] != losses[0][-1]


def test_the_network_has_the_four_layers_of_figure_1():
    config = load([str(relu_vs_tanh.CONFIG), "--data.root", "x"]).model
    assert isinstance(config, ModelConfig)
    names = {name.split(".")[0] for name in AlexNet(config, 10, 32).full_state()}
    assert names == {"conv1", "conv2", "conv3", "fc8"}
    fan_in = {
        name: value[0].numel()
        for name, value in AlexNet(config, 10, 32).full_state().items()
        if "weight" in name
    }
    assert fan_in == {f"{name}.weight": number for name, number in relu_vs_tanh._FAN_IN.items()}


@pytest.mark.parametrize("best, expected", [(0.01, 0.01), (0.0001, 0.0001)])
def test_the_search_widens_its_grid_until_the_best_rate_is_inside(best, expected, monkeypatch):
    """A run takes 4 epochs at the best rate, and 2 more for each step of the grid away from it.

    The search begins around 0.001.
    """
    tried = {}

    def train(curve, lr, seed, settings, epochs):
        tried[lr] = epochs
        needed = 4 + round(4 * abs(math.log10(lr / best)))
        return ([0.5] * (needed - 1) + [0.25])[:epochs]

    monkeypatch.setattr(relu_vs_tanh, "train", train)
    settings = relu_vs_tanh.Settings("x", Path("y"), 1, 30, 1)
    assert relu_vs_tanh._search(Curve("modern", "relu"), settings, Pool()) == pytest.approx(
        expected
    )
    rates = sorted(tried)
    assert rates[0] < expected * 0.9 and rates[-1] > expected * 1.1
    assert max(tried.values()) <= 8, "once one is at the target, nobody is trained longer"


def test_if_no_rate_reaches_the_target_the_nearest_is_taken_but_none_that_diverged(monkeypatch):
    errors = {0.001: [0.5, 0.4], 0.0032: [0.5, 0.35], 0.01: []}
    trained = []

    def train(curve, lr, seed, settings, epochs):
        trained.append(round(lr, 4))
        return errors[round(lr, 4)][:epochs]

    monkeypatch.setattr(relu_vs_tanh, "train", train)
    settings = relu_vs_tanh.Settings("x", Path("y"), 1, 2, 1)
    assert relu_vs_tanh._search(Curve("modern", "tanh"), settings, Pool()) == pytest.approx(
        0.00316, rel=0.01
    )
    assert trained.count(0.0032) == 2 and trained.count(0.01) == 1, (
        "a run that diverged is not tried again"
    )


def compare_two_at_once(data, work, recipe):
    """A command, whose workers are forked: those that are spawned take seconds to start."""
    runs.get_context = lambda kind: multiprocessing.get_context("fork")
    settings = relu_vs_tanh.Settings(data, work, 1, 1000, 2, ("--config", str(recipe)))
    cli.run(lambda _: print(relu_vs_tanh.compare(settings)))


def test_a_stopped_comparison_ends_its_workers_and_can_be_resumed(prepared, tmp_path, monkeypatch):
    """The command alone gets SIGTERM, while two of its runs train.

    The comparison of ReLUs then trains up to a cap, in the same folder.
    """
    recipe, work = tmp_path / "tiny.yaml", tmp_path / "runs"
    recipe.write_text(TINY)
    process = Started(compare_two_at_once, str(prepared), work, recipe)
    while not all(
        len(relu_vs_tanh.training_errors(work / f"2012-relu-lr{lr}-seed0"))
        for lr in ("0.001", "0.0032")
    ):
        assert process.poll() is None, process.errors()
        time.sleep(0.1)
    both = children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and process.errors() == ""
    assert len(both) == 2 and not any(map(running, both))
    before = relu_vs_tanh.training_errors(work / "2012-relu-lr0.001-seed0")
    monkeypatch.setattr(runs, "workers", workers)
    monkeypatch.setattr(relu_vs_tanh, "_COLOURS", {"relu": "black"})
    options = ("--config", str(recipe))
    results = relu_vs_tanh.compare(relu_vs_tanh.Settings(str(prepared), work, 1, 2, 2, options))
    assert [result.curve.weights for result in results] == ["2012", "modern"]
    after = relu_vs_tanh.training_errors(work / "2012-relu-lr0.001-seed0")
    assert after[: len(before)] == before and len(after) >= 2


def test_a_killed_run_ends_the_comparison(prepared, tmp_path):
    """A worker gets SIGKILL, as from a kernel that runs out of memory."""
    recipe, work = tmp_path / "tiny.yaml", tmp_path / "runs"
    recipe.write_text(TINY)
    process = Started(compare_two_at_once, str(prepared), work, recipe)
    while not relu_vs_tanh.training_errors(work / "2012-relu-lr0.001-seed0"):
        assert process.poll() is None, process.errors()
        time.sleep(0.1)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert process.wait(60) == 2
    assert "error: a training was killed" in process.errors()


@pytest.mark.parametrize("option", ["--optim.lr", "--train.seed=5", "--run.dir"])
def test_options_that_the_comparison_chooses_itself_are_refused(option, tmp_path):
    with pytest.raises(ValueError, match=f"{option}.*chosen for each run"):
        figures.main(["relu-vs-tanh", "--data", "x", "--out", str(tmp_path / "x.png"), option, "1"])


def test_the_comparison_trains_resumes_and_draws(prepared, tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(relu_vs_tanh, "CONFIG", tmp_path / "tiny.yaml")
    monkeypatch.setattr(relu_vs_tanh, "_FAN_IN", {"conv1": 75})
    settings = relu_vs_tanh.Settings(str(prepared), tmp_path / "runs", 1, 2, 1)
    curve = Curve("2012", "relu")
    first = relu_vs_tanh.train(curve, 0.001, 0, settings, 1)
    more = relu_vs_tanh.train(curve, 0.001, 0, settings, 2)
    assert (
        len(first) == 1
        and len(more) == 2
        and more[0] == first[0]
        and all(0 < error <= 1 for error in more)
    )
    assert relu_vs_tanh.train(curve, 1e30, 0, settings, 1) == []
    results = [
        Result(Curve(weights, activation), 0.01, [[0.5, 0.3, 0.2], [0.5, 0.4, 0.3]])
        for weights in ("2012", "modern")
        for activation in ("relu", "tanh")
    ]
    monkeypatch.setattr(relu_vs_tanh, "compare", lambda settings: results)
    figures.main(["relu-vs-tanh", "--data", str(prepared), "--out", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert "2.5, not reached" in capsys.readouterr().out
