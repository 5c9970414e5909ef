"""Errors and loss over a run, with the drops of the learning rate marked."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alexnet_dali.tools.paper.drawing import BLUE, GREY, RED, Figure
from alexnet_dali.train.record.metrics import read_metrics

_DROP = 0.5
"""The learning rate drops where it falls below this share of itself between two log lines."""


_POINTS = 400
"""A curve has no more: a long run logs more than a chart is wide."""
_STYLES: dict[str, dict[str, Any]] = {
    "training, top-1": {"color": GREY, "alpha": 0.6},
    "validation, top-1": {"color": RED, "marker": "."},
    "validation, top-5": {"color": BLUE, "marker": ".", "linestyle": "--"},
}


class Drop(NamedTuple):
    """A step after which the learning rate is smaller, and what it is then."""

    step: int
    lr: float


class Curves(NamedTuple):
    """What a run has logged, by step. Errors are rates in [0, 1]."""

    name: str
    loss: dict[int, float]
    val_loss: dict[int, float]
    train_error: dict[int, float]
    top1_error: dict[int, float]
    top5_error: dict[int, float]
    drops: list[Drop]
    steps_per_epoch: float | None  # None before the first validation


def read(run: Path) -> Curves:
    """The curves of a run's folder; ValueError where it has logged no loss."""
    tags = ("train/loss", "val/loss", "train/top1_error", "val/top1_error", "val/top5_error")
    loss, val_loss, train_error, top1_error, top5_error = (read_metrics(run, tag) for tag in tags)
    if not loss:
        raise ValueError(
            f"{run}: no training loss in its metrics.jsonl; expected the folder of a "
            "run that has logged one"
        )
    epochs = read_metrics(run, "epoch")
    lengths = [step / epochs[step] for step in top1_error if epochs.get(step)]
    return Curves(
        run.resolve().name,
        loss,
        val_loss,
        train_error,
        top1_error,
        top5_error,
        drops(read_metrics(run, "train/lr"), list(top1_error)),
        lengths[0] if lengths else None,
    )


def drops(rates: dict[int, float], validations: list[int]) -> list[Drop]:
    """Where the learning rate drops.

    The log shows it some steps late. It happened at the last validation before that, if there was
    one since the log line before.
    """
    found = []
    for (before, old), (after, new) in itertools.pairwise(rates.items()):
        if new < _DROP * old:
            between = [step for step in validations if before <= step < after]
            found.append(Drop(max(between, default=before), new))
    return found


def draw(runs: list[Curves]) -> Figure:
    """Loss on the left, errors on the right; several runs have a colour each, and go by steps."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    several = len(runs) > 1
    for number, run in enumerate(runs):
        color = f"C{number}" if several else None
        steps_per_axis = None if several else run.steps_per_epoch
        draw_loss(left, run, steps_per_axis, color)
        draw_errors(right, run, steps_per_axis, color)
    if several:
        lines = left.get_legend_handles_labels()
        figure.legend(*lines, loc="outside upper center", frameon=False, ncols=min(4, len(runs)))
    styles = [
        Line2D([], [], label=label, **{**style, "color": GREY if several else style["color"]})
        for label, style in _STYLES.items()
    ]
    figure.legend(handles=styles, loc="outside lower center", frameon=False, ncols=3)
    if any(run.drops for run in runs):
        left.set_title("dotted: the learning rate drops", fontsize=9, loc="right", color="0.4")
    return figure


def draw_loss(
    axes: Axes, run: Curves, steps_per_epoch: float | None, color: str | None = None
) -> None:
    """Training and validation loss, by epochs of so many steps, or by steps; styles are errors'."""
    losses = {"training, top-1": run.loss, "validation, top-1": run.val_loss}
    for name, values in losses.items():
        label = {"label": run.name} if values is run.loss else {}
        style = {**_STYLES[name], "color": color or _STYLES[name]["color"]}
        _plot(axes, values, steps_per_epoch, **style, **label)
    _finish(axes, run.drops, steps_per_epoch, color)
    axes.set_ylabel("loss")


def draw_errors(
    axes: Axes, run: Curves, steps_per_epoch: float | None, color: str | None = None
) -> None:
    """Training and validation errors in per cent; each has a colour of its own, or all this one."""
    for (label, style), errors in zip(
        _STYLES.items(), (run.train_error, run.top1_error, run.top5_error)
    ):
        per_cent = {step: 100 * error for step, error in errors.items()}
        own = {**style, "color": color or style["color"]}
        _plot(axes, per_cent, steps_per_epoch, label=label, **own)
    _finish(axes, run.drops, steps_per_epoch, color)
    axes.set_ylabel("error, %")


def draw_line(
    axes: Axes, values: dict[int, float], steps_per_epoch: float | None, title: str
) -> None:
    """Any values by step."""
    _plot(axes, values, steps_per_epoch, color=BLUE)
    _finish(axes, [], steps_per_epoch, None)
    axes.set_ylabel(title)


def _plot(
    axes: Axes, values: dict[int, float], steps_per_epoch: float | None, **style: Any
) -> None:
    """A line, or a dot where there is one value alone."""
    steps, heights = _thinned(values)
    marker = style.pop("marker", "." if len(steps) == 1 else "")
    axes.plot(steps / (steps_per_epoch or 1), heights, linewidth=1.2, marker=marker, **style)


def _thinned(values: dict[int, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values; where there are too many to tell apart, means of neighbours."""
    table = np.array([*values.items()], np.float64).reshape(-1, 2)
    group = -(-len(table) // _POINTS)
    parts = np.split(table, range(group, len(table), group)) if group > 1 else []
    return tuple((np.stack([part.mean(0) for part in parts]) if parts else table).T)


def _finish(
    axes: Axes, drops: list[Drop], steps_per_epoch: float | None, color: str | None
) -> None:
    """Axes, and a dotted line where the learning rate drops; with one run, also what it is then."""
    axes.set_xlabel("epoch" if steps_per_epoch else "step")
    axes.autoscale()  # over the runs before, too
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.spines[["top", "right"]].set_visible(False)
    for drop in drops:
        place = drop.step / (steps_per_epoch or 1)
        axes.axvline(place, color=color or GREY, linewidth=1, linestyle=":")
        if color is None:
            axes.annotate(
                f"rate {drop.lr:g}",
                (place, 1),
                (3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90,
                va="top",
                fontsize=8,
                color=GREY,
            )
