"""The first layer's kernels, in the columns that hold them (figure 3)."""

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.tools.paper.drawing import Figure
from alexnet_dali.train.networks import Trained
from alexnet_dali.train.record.pictures import row_width, tiles

NOISE = 2 / 3
"""The share of colour in noise: of three independent channels, their mean takes a third."""


def columns(network: Trained) -> list[NDArray[np.float32]]:
    """The kernels of conv1 that each column holds, [n, 3, h, w]."""
    kernels = network.model.full_state()["conv1.weight"].numpy()
    return np.split(kernels, network.model.columns.num_columns)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Kernels as they are before training: normal noise of this shape."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def colour_share(kernels: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n]: the share of energy that differs between red, green and blue; 0 is grey.

    `kernels` is [n, 3, h, w].
    """
    grey = kernels.mean(axis=1, keepdims=True, dtype=np.float64)
    return ((kernels - grey) ** 2).sum((1, 2, 3)) / (kernels.astype(np.float64) ** 2).sum((1, 2, 3))


def whole_colour_share(kernels: NDArray[np.float32]) -> float:
    """The share of all kernels together: each counts by its energy."""
    energy = np.square(kernels, dtype=np.float64).sum((1, 2, 3))
    return float(np.average(colour_share(kernels), weights=energy))


def draw(network: Trained) -> Figure:
    """A block for each column, and a row of noise to compare them with."""
    blocks = columns(network)
    width = row_width(len(blocks[0]))
    titles = [_title(f"column {number}", block) for number, block in enumerate(blocks)]
    print("\n".join(titles))
    blocks.append(noise((width, *blocks[0].shape[1:])))
    titles.append(f"for comparison, noise, as before training: {NOISE:.0%} is colour")
    rows = [len(block) // width for block in blocks]
    figure = Figure(figsize=(8, 8 / width * sum(rows) + 0.35 * len(rows)), layout="constrained")
    panels = figure.subplots(len(blocks), 1, height_ratios=rows)
    for axes, block, title in zip(panels, blocks, titles):
        axes.imshow(tiles(block, width), interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    return figure


def _title(name: str, kernels: NDArray[np.float32]) -> str:
    return (
        f"{name}: {whole_colour_share(kernels):.0%} of its energy is colour "
        f"({np.median(colour_share(kernels)):.0%} of its median kernel's)"
    )
