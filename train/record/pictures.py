"""Pictures of a run: what the network sees, its first kernels, and what it takes images for."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.messages import short

NUM_PREDICTIONS = 8
NUM_GUESSES = 5
_GREY = 128.0  # what zero is drawn as
_LARGEST = 1000  # pixels: about how wide a batch is drawn
_LABEL, _OTHER = "#efb2b5", "#cfd8ea"  # the colours of the paper's figure 4, lighter
_WIDE, _HIGH, _SIDE = 420, 130, 120  # pixels of a prediction, and of its picture
_LINE, _MARGIN, _PERCENT = 20, 8, 55


class Pictures:
    """Draws the state of a run. All ranks take part, as each holds a part of the network."""

    def __init__(
        self, samples: Batch, names: Sequence[str], predict: Callable[[Tensor], Tensor], draws: bool
    ) -> None:
        """`samples` are the images whose predictions are shown: central squares [n, 3, S, S].

        `names` are those of the classes. `predict` gives probabilities [n, C] of such squares.
        `draws`: whether this rank draws; one does.
        """
        self._samples, self._names = samples, short(names)
        self._predict, self._draws = predict, draws

    def draw(self, model: AlexNet, batch: Batch) -> dict[str, NDArray[np.uint8]]:
        """Pictures [H, W, 3] by their tags; none where another rank draws.

        Every rank must call it.
        """
        images, labels = self._samples
        scores = self._predict(images)
        own = [{"conv1": column.state_dict()["conv1.weight"]} for column in model.own_columns]
        kernels = model.columns.merge(own)["conv1"]
        if not self._draws:
            return {}
        squares = images.permute(0, 2, 3, 1).byte().cpu().numpy()
        return {
            "pictures/1 batch as the network sees it (grey = 0)": batch_grid(batch.images),
            "pictures/2 kernels of conv1, column by column": kernel_grid(
                kernels.cpu().numpy(), model.columns.num_columns
            ),
            "pictures/3 predictions on validation images": predictions(
                squares, labels.tolist(), scores.cpu().numpy(), self._names
            ),
        }


def batch_grid(images: Tensor) -> NDArray[np.uint8]:
    """The first images of a batch [N, 3, S, S] without their mean, with black lines between."""
    across = max(1, min(8, _LARGEST // images.shape[-1], len(images)))
    down = max(1, min(across // 2, len(images) // across))
    shown = images[: across * down].float().cpu().numpy().transpose(0, 2, 3, 1) + _GREY
    return _in_rows(np.clip(np.rint(shown), 0, 255).astype(np.uint8), across, frame=0)


def kernel_grid(kernels: NDArray[np.float32], num_columns: int) -> NDArray[np.uint8]:
    """Kernels [n, 3, h, w] enlarged, a block for each column, one below the other."""
    blocks = [
        np.rint(255 * tiles(block, row_width(len(block)))).astype(np.uint8)
        for block in np.split(np.nan_to_num(kernels), num_columns)
    ]
    gap = np.full_like(blocks[0][:3], 255)
    parts = [part for block in blocks for part in (block, gap)][:-1]
    times = max(1, 800 // blocks[0].shape[1])
    return np.concatenate(parts).repeat(times, axis=0).repeat(times, axis=1)


def row_width(count: int) -> int:
    """How many kernels go into a row, so that all rows are full: 16 at most."""
    return max(width for width in range(1, 17) if count % width == 0)


def tiles(kernels: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Kernels in rows of `width`, each stretched to the full range, with white lines between."""
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    pictures = (0.5 + 0.5 * kernels / np.maximum(scale, 1e-12)).transpose(0, 2, 3, 1)
    return _in_rows(pictures, width, frame=1)


def _in_rows(pictures: NDArray, width: int, frame: int) -> NDArray:
    """[n, h, w, 3] in rows of `width`, each picture in a frame of one pixel."""
    framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=frame)
    rows = framed.reshape(-1, width, *framed.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def predictions(
    squares: NDArray[np.uint8],
    labels: Sequence[int],
    scores: NDArray[np.float64],
    classes: Sequence[str],
) -> NDArray[np.uint8]:
    """Two in a row: a picture, its class, and its likeliest classes on bars of their probability.

    `squares` is [n, S, S, 3], `scores` [n, C]. A class is cut to the width that it has, so that no
    text meets another. Pillow draws this in a fifth of Matplotlib's time.
    """
    down = -(-len(squares) // 2)
    canvas = Image.new("RGB", (2 * _WIDE, down * _HIGH + 2 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (square, label, own) in enumerate(
        zip(squares, labels, np.nan_to_num(scores), strict=True)
    ):
        left, top = _MARGIN + _WIDE * (place % 2), _MARGIN + _HIGH * (place // 2)
        picture = Image.fromarray(square).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        canvas.paste(picture, (left, top))
        start, end = left + _SIDE + _MARGIN, left + _WIDE - 2 * _MARGIN
        _write(draw, start, top, end, classes[label], _font(bold=True))
        for row, guess in enumerate(np.argsort(-own, kind="stable")[:NUM_GUESSES], 1):
            height = top + row * _LINE
            length = round((end - start) * own[guess])
            bar = (start, height + 1, start + length, height + _LINE - 2)
            draw.rectangle(bar, fill=_LABEL if guess == label else _OTHER)
            percent = f"{own[guess]:.1%}"
            _write(draw, start, height, end - _PERCENT, classes[guess], _font())
            draw.text((end, height + _LINE // 2), percent, "black", _font(), anchor="rm")
    legend = "bold: the image's class, whose bar is red"
    draw.text((_WIDE, down * _HIGH + _LINE), legend, "black", _font(), anchor="mm")
    return np.asarray(canvas)


def _write(
    draw: ImageDraw.ImageDraw,
    start: int,
    top: int,
    end: int,
    text: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    """A line of text that is cut where it would pass `end`."""
    fits = len(text)
    while font.getlength(shown := text[:fits] + "…" * (fits < len(text))) > end - start:
        fits -= 1
    draw.text((start + 2, top + _LINE // 2), shown, "black", font, anchor="lm")


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's where it is installed, as it has more scripts; else Pillow's own."""
    found = find_spec("matplotlib")  # which takes half a second to import
    if found is None or found.origin is None:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(12))
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data/fonts/ttf" / name, 12)
