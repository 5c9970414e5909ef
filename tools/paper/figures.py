"""Draw the paper's figures from networks trained here, as PNG and SVG, PDF or JPEG.

alexnet figures kernels runs/alexnet --out kernels.png
alexnet figures predictions runs/alexnet --out predictions.png
alexnet figures neighbors runs/alexnet --out neighbors.png
alexnet figures codes runs/alexnet --out codes.png
alexnet figures curves runs/alexnet runs/other --out curves.png
alexnet figures relu-vs-tanh --data prepared/cifar10 --out relu-vs-tanh.png
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alexnet_dali.pipeline.decode import decode
from alexnet_dali.pipeline.messages import short
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.paper import binary_codes, curves, kernels, neighbors
from alexnet_dali.tools.paper import relu_vs_tanh as comparison
from alexnet_dali.tools.paper.drawing import BLUE, RED, Figure, check_name, save_figure
from alexnet_dali.train.networks import check_classes, open_dataset, open_network, predict
from alexnet_dali.train.parallel.ranks import join

Draw = Callable[..., Figure]
Place = str | Path
_NEAREST = 6
_BITS = (16, 32, 64, 128, 256)
_QUERIES = 1000
"""So many exact searches among all of ImageNet take minutes on a few cores."""


def main(argv: list[str]) -> None:
    """Draw the figure that the arguments ask for; ValueError or OSError where that fails."""
    draw, options, out = _arguments(argv)
    save_figure(draw(**options), out)


def kernels_figure(run: Place) -> Figure:
    """Figure 3: the first layer's kernels, a block for each column.

    It says how much colour each block carries. A row of noise, which has 67 %, stands below.
    """
    return kernels.draw(open_network(Path(run), torch.device("cpu")))


def predictions(
    run: Place, data: Place | None = None, images: int = 8, seed: int = 0, device: str = "auto"
) -> Figure:
    """Figure 4, left: images, their label, and the five classes that seem most likely."""
    with join(device, num_columns=1) as ranks:
        network = open_network(Path(run), ranks.device)
        dataset = open_dataset(data, network)
        chosen = np.random.default_rng(seed).permutation(len(dataset.val))[:images]
        some = replace(dataset, val=dataset.val.take(chosen))
        scores = predict([network], some, ranks, num_views=10)[0][0]
    names = short(dataset.names)
    figure = Figure(figsize=(8, 3.4 * -(-len(chosen) // 4)), layout="constrained")
    grid = figure.subplots(
        2 * -(-len(chosen) // 4), 4, squeeze=False, height_ratios=[3, 2] * -(-len(chosen) // 4)
    )
    figure.supxlabel(
        "above each image: its label; below: the five likeliest classes, with the label in red",
        fontsize=8,
    )
    for axes in grid.flat:
        axes.axis("off")
    for place, index in enumerate(chosen):
        row, column = 2 * (place // 4), place % 4
        label = dataset.val.labels[index]
        grid[row, column].imshow(decode(dataset.val.content(index)))
        grid[row, column].set_title(names[label], fontsize=9, parse_math=False)
        _bars(grid[row + 1, column], scores[place], int(label), names)
    return figure


def _bars(axes: Axes, scores: NDArray[np.float64], label: int, names: list[str]) -> None:
    """Five thin bars, the right one in red; above each, its class and its probability."""
    best = likeliest(scores)[::-1]
    colors = [RED if k == label else BLUE for k in best]
    axes.barh(range(len(best)), scores[best], height=0.25, color=colors)
    for place, k in enumerate(best):
        style: dict[str, Any] = {"va": "bottom", "fontsize": 8}
        axes.text(0, place + 0.15, _cut(names[k]), parse_math=False, **style)
        axes.text(1, place + 0.15, f"{scores[k]:.0%}", ha="right", **style)
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.3, 5))


def _cut(name: str) -> str:
    """A name short enough to leave room for the per cent beside it."""
    return name if len(name) <= 21 else f"{name[:20]}\N{HORIZONTAL ELLIPSIS}"


def likeliest(scores: NDArray[np.float64], count: int = 5) -> NDArray[np.int64]:
    """The classes with the highest scores, the highest first."""
    return np.argsort(-scores, kind="stable")[:count]


def neighbors_figure(
    run: Place, data: Place | None = None, images: int = 5, seed: int = 0, device: str = "auto"
) -> Figure:
    """Figure 4, right: the training images nearest to some validation images."""
    with join(device, num_columns=1) as ranks:
        network = open_network(Path(run), ranks.device)
        dataset = open_dataset(data, network)
        check_classes(network, dataset)
        queries = neighbors.choose(dataset, images, seed)
        return neighbors.draw(network, dataset, ranks, queries, _NEAREST)


def codes_figure(
    run: Place, data: Place | None = None, bits: Sequence[int] = _BITS, device: str = "auto"
) -> Figure:
    """Section 6.1: retrieval by short binary codes, which an autoencoder makes of the features.

    At most 1,000 validation images are the queries.
    """
    import_module("faiss")  # without it, this ends before features are computed
    with join(device, num_columns=1) as ranks:
        network = open_network(Path(run), ranks.device)
        dataset = open_dataset(data, network)
        queries = neighbors.some(dataset.val, _QUERIES)
        train, val = (
            neighbors.describe(network, images, ranks)[0] for images in (dataset.train, queries)
        )
    labels = (np.asarray(dataset.train.labels), np.asarray(queries.labels))
    rows = binary_codes.compare(train, val, labels, list(bits))
    print(binary_codes.table(rows))
    return binary_codes.draw(rows, len(train))


def curves_figure(runs: Sequence[Place]) -> Figure:
    """Loss, training and validation errors over a run, or over several, and drops of the rate."""
    return curves.draw([curves.read(Path(folder)) for folder in runs])


def relu_vs_tanh(
    data: Place, work: Path, seeds: int, cap: int, at_once: int, options: Sequence[str]
) -> Figure:
    """Figure 1: training errors with ReLUs and with tanh, each at its best learning rate.

    Its runs are kept in relu-vs-tanh-runs beside the picture; rerun the command to resume them.
    Options of train, such as --train.precision bf16, go to every run.
    """
    settings = comparison.Settings(str(data), work, seeds, cap, at_once, tuple(options))
    results = comparison.compare(settings)
    print(comparison.table(results))
    for weights in ("2012", "modern"):
        print(f"weights {weights}: {comparison.factor(results, weights)}")
    return comparison.draw(results)


def _arguments(argv: list[str]) -> tuple[Draw, dict[str, Any], Path]:
    """What draws, its arguments by name, and the file to write."""
    parser = command_line("alexnet figures", __doc__)
    figures = parser.add_subparsers(required=True, metavar="FIGURE")
    _add(figures, "kernels", kernels_figure, "one")
    _add(figures, "curves", curves_figure, "some")
    _add_predictions(figures)
    _add_neighbors(figures)
    _add_codes(figures)
    _add_relu_vs_tanh(figures)
    args, more = parser.parse_known_args(argv)
    _check(args, more)
    options = vars(args)
    draw, out = options.pop("draw"), Path(options.pop("out"))
    if draw is relu_vs_tanh:
        options |= {"work": out.parent / "relu-vs-tanh-runs", "options": more}
    return draw, options, out


def _add(figures: Any, name: str, draw: Draw, runs: str) -> argparse.ArgumentParser:
    """A figure of `runs`: none, one or some."""
    about = str(draw.__doc__)
    figure = figures.add_parser(name, help=about.replace("%", "%%"), description=about)
    figure.set_defaults(draw=draw)
    if runs == "one":
        figure.add_argument("run", metavar="RUN", help="a run's folder or a checkpoint")
    elif runs == "some":
        figure.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    out = "the picture, or .svg, .pdf, .jpg; beside a PNG goes the SVG"
    figure.add_argument("--out", required=True, metavar="FILE.png", help=out)
    return figure


def _add_data(figure: argparse.ArgumentParser) -> None:
    figure.add_argument("--data", metavar="DIR", help="prepared folder (that of the run)")
    devices = ["auto", "cpu", "cuda"]
    figure.add_argument("--device", choices=devices, default="auto", help="to compute on (auto)")


def _add_predictions(figures: Any) -> None:
    figure = _add(figures, "predictions", predictions, "one")
    _add_data(figure)
    figure.add_argument("--images", type=int, default=8, metavar="N", help="how many images (8)")
    figure.add_argument("--seed", type=int, default=0, metavar="N", help="which images (0)")


def _add_neighbors(figures: Any) -> None:
    figure = _add(figures, "neighbors", neighbors_figure, "one")
    _add_data(figure)
    figure.add_argument("--images", type=int, default=5, metavar="N", help="how many queries (5)")
    figure.add_argument("--seed", type=int, default=0, metavar="N", help="which queries (0)")


def _add_codes(figures: Any) -> None:
    figure = _add(figures, "codes", codes_figure, "one")
    _add_data(figure)
    figure.add_argument("--bits", type=int, nargs="+", default=_BITS, metavar="N", help="lengths")


def _add_relu_vs_tanh(figures: Any) -> None:
    """Options that it does not know are for train."""
    figure = _add(figures, "relu-vs-tanh", relu_vs_tanh, "none")
    figure.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    figure.add_argument("--seeds", type=int, default=2, metavar="N", help="runs of each curve (2)")
    figure.add_argument("--cap", type=int, default=30, metavar="N", help="epochs at most (30)")
    at_once = "runs at the same time, all on one GPU (1)"
    figure.add_argument("--at-once", type=int, default=1, metavar="N", help=at_once)


def _check(args: argparse.Namespace, more: list[str]) -> None:
    """ValueError where an argument can't be followed, or is not known."""
    if more and args.draw is not relu_vs_tanh:
        raise ValueError(f"{' '.join(more)}: not understood; see alexnet figures --help")
    own = [option for option in more if option.split("=")[0] in comparison.OWN_OPTIONS]
    if own:
        raise ValueError(
            f"{', '.join(own)}: chosen for each run by the comparison itself, --data, --seeds and "
            "--cap"
        )
    check_name(Path(args.out))
    counts = ("images", "seeds", "cap", "at_once")
    small = [name for name in counts if getattr(args, name, 1) < 1]
    if small:
        raise ValueError(
            f"--{small[0].replace('_', '-')} is {getattr(args, small[0])}; expected 1 or more"
        )
    if any(bits < 8 or bits % 8 for bits in getattr(args, "bits", [])):
        raise ValueError(f"--bits {' '.join(map(str, args.bits))}: expected multiples of 8")


if __name__ == "__main__":
    run(main)
