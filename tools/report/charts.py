"""Charts and pictures that lie in the page itself."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from alexnet_dali.tools.paper import curves, kernels
from alexnet_dali.tools.paper.curves import Curves
from alexnet_dali.tools.report.record import Speed
from alexnet_dali.train.networks import Trained
from alexnet_dali.train.record.pictures import row_width, tiles

_INK = "#010203"
"""Stands for the colour of the page's text, which is dark by day and light by night."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "",
    "font.size": 10,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    ),
}
_SIDE = 224
"""Pixels of the longer side of a photograph in the page."""


class Block(NamedTuple):
    """The kernels of a column, or of noise."""

    uri: str
    num_kernels: int
    colour: float  # share of their energy
    median: float  # of the median kernel's


def of_curves(run: Curves) -> list[str]:
    """Errors and loss."""
    length = run.steps_per_epoch

    def errors(axes: Axes) -> None:
        curves.draw_errors(axes, run, length)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)

    return [
        _chart("errors", "Training and validation error over the run", errors),
        _chart(
            "loss",
            "Training and validation loss over the run",
            lambda axes: curves.draw_loss(axes, run, length),
        ),
    ]


def of_speed(speed: Speed, run: Curves | None) -> list[str]:
    """Images a second, and the share of time spent waiting for data."""
    length = run.steps_per_epoch if run else None
    waiting = {step: 100 * share for step, share in speed.waiting.items()}
    titles = {"images a second": speed.images_per_second, "waiting for data, %": waiting}

    def draw(title: str, values: dict[int, float]) -> Callable[[Axes], None]:
        return lambda axes: curves.draw_line(axes, values, length, title)

    return [
        _chart(f"speed{number}", f"{title} over the run", draw(title, values))
        for number, (title, values) in enumerate(titles.items())
    ]


def kernel_blocks(network: Trained) -> list[Block]:
    """The kernels of each column, and last a row of noise."""
    columns = kernels.columns(network)
    width = row_width(len(columns[0]))
    return [
        Block(
            _uri(np.rint(255 * tiles(block, width)).astype(np.uint8), "PNG"),
            len(block),
            kernels.whole_colour_share(block),
            float(np.median(kernels.colour_share(block))),
        )
        for block in (*columns, kernels.noise((width, *columns[0].shape[1:])))
    ]


def photograph(pixels: NDArray[np.uint8]) -> str:
    """A data URI of an image [h, w, 3], made smaller if it is large."""
    return _uri(pixels, "JPEG")


def _uri(pixels: NDArray[np.uint8], kind: str) -> str:
    image = Image.fromarray(pixels)
    if kind == "JPEG":
        image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _chart(name: str, title: str, draw: Callable[[Axes], None]) -> str:
    """An SVG element as wide as its place, in the page's fonts and colours.

    `name` keeps its ids apart from those of other charts.
    """
    text = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        draw(figure.subplots())
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator"))
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = (
        f'<svg {box[0]} role="img" aria-label="{title}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + svg[svg.index(">") + 1 :]
