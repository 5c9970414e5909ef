"""Pictures beside bars of their likeliest classes, as in the paper's figure 4."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from alexnet_dali.pipeline.messages import one_line
from alexnet_dali.tools.paper.drawing import BLUE, RED, Figure
from alexnet_dali.tools.predict.answers import Answer, class_texts
from alexnet_dali.train.networks import Trained

_LONGEST_CLASS, _LONGEST_PATH = 34, 44  # characters


def draw(network: Trained, answers: Sequence[Answer]) -> Figure:
    """A row for each picture, or two in a row where there are many.

    Where the folder's class is known, its bar is red.
    """
    across = 1 if len(answers) <= 4 else 2
    down = -(-len(answers) // across)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(6.6 * across, 1.75 * down + 0.35), layout=layout)
    grid = figure.subplots(down, 2 * across, squeeze=False, width_ratios=[1, 2.2] * across)
    for axes in grid.flat[2 * len(answers) :]:
        axes.axis("off")
    texts = [_cut(text, _LONGEST_CLASS) for text in class_texts(network)]
    for place, answer in enumerate(answers):
        picture, bars = grid.flat[2 * place : 2 * place + 2]
        picture.imshow(answer.square)
        picture.axis("off")
        _bars(bars, answer, texts)
    if any(answer.label is not None for answer in answers):
        key = Patch(color=RED, label="the class of the picture's folder")
        figure.legend(handles=[key], loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _bars(axes: Axes, answer: Answer, texts: list[str]) -> None:
    """Names stand before the bars and percentages behind them, so that no bar ends in a text."""
    places = range(len(answer.classes))
    colours = [RED if guess == answer.label else BLUE for guess in answer.classes]
    axes.barh(places, answer.probabilities, color=colours, height=0.7)
    names = [texts[guess] for guess in answer.classes]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    for place, probability in zip(places, answer.probabilities):
        axes.text(probability + 0.015, place, f"{probability:.1%}", va="center", fontsize=8)
    axes.set(xlim=(0, 1.18), ylim=(len(places) - 0.5, -0.5))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"], fontsize=7)
    axes.tick_params(length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 1)
    path = one_line(answer.path).encode(errors="replace").decode()
    axes.set_title(_cut_left(path, _LONGEST_PATH), fontsize=8, loc="left", parse_math=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _cut_left(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]
