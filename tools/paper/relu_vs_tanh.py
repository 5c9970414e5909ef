"""How many epochs ReLUs and tanh need to reach 25 % training error (figure 1).

The network has four layers. It is trained with two scales of initial weights. For each scale and
activation, the learning rate that reaches the target first is searched on a grid, which grows until
the best rate is not at its end. Then every seed is trained to the target, or to a cap of epochs.
The error of an epoch is the mean over its steps, while the weights change.
"""

import itertools
import json
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.paper import runs
from alexnet_dali.tools.paper.drawing import BLUE, RED, Figure
from alexnet_dali.tools.tables import markdown
from alexnet_dali.train.checkpoints.run_folder import check_same_run
from alexnet_dali.train.config import load
from alexnet_dali.train.record.metrics import read_metrics
from alexnet_dali.train.trainer import TrainingError

CONFIG = ROOT / "configs/cifar10.yaml"
TARGET = 0.25
STEP = math.sqrt(10)
"""From one learning rate of the grid to the next."""

OWN_OPTIONS = (
    *(
        "--config",
        "--data.root",
        "--run.dir",
        "--run.max_steps",
        "--run.log_seconds",
        "--train.seed",
        "--train.epochs",
    ),
    *(
        "--optim.lr",
        "--optim.lr_factors",
        "--model.activation",
        "--model.init_std",
        "--data.num_threads",
    ),
)
"""Options of train that the comparison chooses for each run."""

_FAN_IN = {"conv1": 75, "conv2": 800, "conv3": 432, "fc8": 512}
_PIXEL_SCALE = 64.0
_FIRST_LR = 0.001
_NEVER = 1e9  # seconds
_EPOCHS = 1000  # more than any cap: the comparison decides where a run ends, not its config
_TITLES = {"2012": "weights of 2012", "modern": "weights by fan-in"}
_COLOURS = {"relu": BLUE, "tanh": RED}


class Curve(NamedTuple):
    """What is searched for, and trained from several seeds."""

    weights: str  # "2012" or "modern"
    activation: str


class Settings(NamedTuple):
    """How the comparison is run."""

    data: str
    work: Path  # a folder of runs; rerun the command to resume them
    num_seeds: int
    cap: int  # epochs after which a run is given up
    at_once: int
    options: tuple[str, ...] = ()  # of train, for every run


class Result(NamedTuple):
    """A curve with its learning rate: training errors by epoch, a list for each seed."""

    curve: Curve
    lr: float
    errors: list[list[float]]

    def epochs(self) -> list[float]:
        """Epochs to the target for each seed; infinite where it stays above."""
        return [epochs_to(TARGET, errors) for errors in self.errors]


def compare(settings: Settings) -> list[Result]:
    """Search, then train; seeds and learning rates run `at_once`. OSError where a run is killed."""
    with runs.workers(settings.at_once) as pool:
        curves = itertools.product(("2012", "modern"), _COLOURS)
        return [_result(Curve(*curve), settings, pool) for curve in curves]


def _result(curve: Curve, settings: Settings, pool: Executor) -> Result:
    lr = _search(curve, settings, pool)
    tasks = [(curve, lr, seed, settings, settings.cap) for seed in range(settings.num_seeds)]
    result = Result(curve, lr, list(pool.map(train, *zip(*tasks))))
    print(table([result]), flush=True)
    return result


def _search(curve: Curve, settings: Settings, pool: Executor) -> float:
    """The learning rate that reaches the target first, or is nearest to it at the cap."""
    ranks: dict[float, tuple[float, float]] = {}
    wanted, limit = [_FIRST_LR, _FIRST_LR * STEP], settings.cap
    while wanted:
        ranks |= _race(curve, wanted, limit, settings, pool)
        best = min(ranks, key=lambda lr: ranks[lr])
        if math.isfinite(ranks[best][0]):
            limit = math.ceil(ranks[best][0])  # whoever takes longer has lost already
        wanted = [
            lr
            for lr in (best / STEP, best * STEP)
            if not any(math.isclose(lr, tried) for tried in ranks)
        ]
    return best


def _race(
    curve: Curve, rates: list[float], limit: int, settings: Settings, pool: Executor
) -> dict[float, tuple[float, float]]:
    """Epochs to the target and last error, by learning rate; all stop once one is there."""
    errors: dict[float, list[float]] = {}
    for epoch in range(1, limit + 1):
        running = [lr for lr in rates if errors.get(lr) != []]  # those that did not diverge
        if not running or any(min(values, default=1) <= TARGET for values in errors.values()):
            break
        tasks = [(curve, lr, 0, settings, epoch) for lr in running]
        errors |= zip(running, pool.map(train, *zip(*tasks)))
    return {
        lr: (epochs_to(TARGET, values), values[-1] if values else 1.0)
        for lr, values in errors.items()
    }


def train(curve: Curve, lr: float, seed: int, settings: Settings, epochs: int) -> list[float]:
    """Training errors by epoch, until one is at the target; none where the loss diverges."""
    folder = settings.work / f"{curve.weights}-{curve.activation}-lr{lr:.2g}-seed{seed}"
    options = [str(CONFIG), "--data.root", settings.data, "--run.dir", str(folder)]
    options += ["--model.activation", curve.activation, "--optim.lr", str(lr), *_weights(curve)]
    options += ["--train.seed", str(seed), "--train.epochs", str(_EPOCHS), *settings.options]
    config, dataset = load(options), Dataset.open(Path(settings.data))
    check_same_run(folder, config, dataset.fingerprint)
    steps = len(dataset.train) // config.train.batch_size
    for epoch in range(1, epochs + 1):
        errors = training_errors(folder)
        if len(errors) >= epoch or min(errors, default=1) <= TARGET:
            continue
        run = replace(config.run, max_steps=epoch * steps, log_seconds=_NEVER)
        try:
            runs.train(replace(config, run=run))
        except TrainingError:
            return []
    return training_errors(folder)[:epochs]


def _weights(curve: Curve) -> list[str]:
    """Options of train for the initial weights; the recipe's own are those of 2012."""
    if curve.weights == "2012":
        return []
    gain = 2 if curve.activation == "relu" else 1
    std = {name: math.sqrt(gain / fan_in) for name, fan_in in _FAN_IN.items()}
    # The weights and rate of a network whose pixels are divided by 64, for undivided pixels: the
    # training is the same.
    std["conv1"] /= _PIXEL_SCALE
    factors = {"conv1.weight": 1 / _PIXEL_SCALE**2}
    return [
        *("--model.init_std", json.dumps({"default": 0, **std})),
        *("--optim.lr_factors", json.dumps(factors)),
    ]


def training_errors(folder: Path) -> list[float]:
    """The mean training error of each epoch of a run that logs at the ends of epochs alone."""
    return list(read_metrics(folder, "train/top1_error").values())


def epochs_to(target: float, errors: Sequence[float]) -> float:
    """When errors by epoch first come down to the target, in a straight line between epochs."""
    for epoch, error in enumerate(errors, 1):
        if error <= target:
            before = errors[epoch - 2] if epoch > 1 else 1.0
            return epoch - (target - error) / (before - error)
    return math.inf


def factor(results: list[Result], weights: str) -> str:
    """How many times longer tanh takes, by the means over seeds.

    A lower bound where a seed had not come down in time.
    """
    relu, tanh = (
        next(result for result in results if result.curve == Curve(weights, activation))
        for activation in _COLOURS
    )
    if not all(relu.errors) or not all(tanh.errors):
        return "no factor, as a run diverged"
    if not np.isfinite(relu.epochs()).all():
        return f"no factor, as ReLUs did not come to {TARGET:.0%}"
    at_least = np.mean(
        [min(epochs, len(errors)) for epochs, errors in zip(tanh.epochs(), tanh.errors)]
    )
    bound = "" if np.isfinite(tanh.epochs()).all() else "more than "
    return f"tanh takes {bound}{at_least / np.mean(relu.epochs()):.1f} times as long"


def table(results: list[Result]) -> str:
    """A line for each curve."""
    rows = []
    for result in results:
        reached = [
            f"{epochs:.1f}" if math.isfinite(epochs) else "not reached"
            for epochs in result.epochs()
        ]
        last = ", ".join(f"{100 * errors[-1]:.1f}" for errors in result.errors if errors)
        rows.append([*result.curve, f"{result.lr:.2g}", ", ".join(reached), last])
    headings = [
        "weights",
        "activation",
        "learning rate",
        f"epochs to {TARGET:.0%}, by seed",
        "last error, %",
    ]
    return markdown(rows, headings)


def draw(results: list[Result]) -> Figure:
    """Training error by epoch, a panel for each scale of the weights."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, weights in zip(figure.subplots(1, 2, sharex=True, sharey=True), ("2012", "modern")):
        for result in results:
            if result.curve.weights == weights:
                activation = result.curve.activation
                name = "ReLU" if activation == "relu" else "tanh"
                for number, errors in enumerate(result.errors):
                    label = f"{name}, learning rate {result.lr:.2g}" if number == 0 else None
                    style = "-" if activation == "relu" else "--"
                    axes.plot(
                        range(1, len(errors) + 1),
                        errors,
                        style,
                        color=_COLOURS[activation],
                        label=label,
                    )
        axes.axhline(TARGET, color="grey", linewidth=1)
        axes.text(0, TARGET - 0.01, f"{TARGET:.0%}", color="grey", va="top")
        axes.set_xlabel("epoch")
        axes.set_title(f"{_TITLES[weights]}: {factor(results, weights)}", fontsize=10)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("training error")
    return figure
