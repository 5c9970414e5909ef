"""Draw what the network sees: images of a step, a row for each stage of the pipeline.

    python -m tools.show_batch --data prepared/imagenet --out batch.png
    python -m tools.show_batch runs/alexnet --step 12345 --out step.png
    python -m tools.show_batch runs/alexnet --worst 16 --out worst.png

A run's batches follow from its recipe, so any step of a RUN can be drawn again. With --worst, the
training images that its newest checkpoint finds hardest: wrong labels are often among them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.dataset import Dataset, short
from pipeline.decode import decode
from pipeline.loader import Loader
from pipeline.plan import TrainingPlan, Views
from pipeline.preprocessing import Preprocessing
from tools.cli import command_line, run
from tools.paper.drawing import check_name, write_figure
from train.data import training_loader, training_plan
from train.distributed import join
from train.run_folder import read_config
from train.trained import open_network, predict

_GREY = 128.0  # what zero is drawn as, in rows whose mean is subtracted


class _OneStep:
    """A plan of a single step."""

    num_steps = steps_per_epoch = 1

    def __init__(self, views: Views) -> None:
        self.batch_size = len(views.indices)
        self._views = views

    def views(self, step: int, part: int, num_parts: int) -> Views:
        return self._views


def main(argv: list[str]) -> None:
    """Draw the picture that the arguments ask for; ValueError or OSError where that fails."""
    args = _arguments(argv)
    if args.run and args.worst:
        figure = _hardest(args)
    elif args.run:
        figure = _replayed(args)
    else:
        figure = _of_a_new_run(args)
    write_figure(figure, Path(args.out), dpi=110)


def _of_a_new_run(args: argparse.Namespace) -> Figure:
    """The first images of a run with the paper's recipe."""
    dataset = Dataset.open(Path(args.data))
    if args.images > len(dataset.train):
        raise ValueError(
            f"--images is {args.images}; {args.data} has {len(dataset.train)} training images"
        )
    margin = args.resize - args.crop
    plan = TrainingPlan(len(dataset.train), args.images, margin, args.seed, num_steps=1)
    views = plan.views(0, 0, 1)
    preprocessing = Preprocessing.of(dataset.stats, args.resize, args.crop)
    return _draw(dataset, views, stages(dataset, views, preprocessing), preprocessing)


def _replayed(args: argparse.Namespace) -> Figure:
    """The first images of a step of a run, as the run's recipe shows them."""
    config = read_config(Path(args.run))
    dataset = Dataset.open(Path(args.data or str(config.data.root)))
    plan = training_plan(config, dataset)
    if not 1 <= args.step <= plan.num_steps:
        raise ValueError(f"--step is {args.step}; {args.run} has steps 1 to {plan.num_steps}")
    loader = training_loader(dataset, plan, config.data, args.step - 1)
    views = plan.views(args.step - 1, 0, 1).first(args.images)
    rows = stages(dataset, views, loader.preprocessing)
    images, _ = next(iter(loader))
    rows["mean-subtracted"] = images[: args.images].permute(0, 2, 3, 1).numpy()
    return _draw(dataset, views, rows, loader.preprocessing)


def _hardest(args: argparse.Namespace) -> Figure:
    """Training images with the least probability for their label, and what they are taken for."""
    config = read_config(Path(args.run))
    dataset = Dataset.open(Path(args.data or str(config.data.root)))
    with join(args.device, num_columns=1) as ranks:
        network = open_network(Path(args.run), ranks.device)
        scores, labels = predict(network, replace(dataset, val=dataset.train), ranks, num_views=1)
    own = scores[np.arange(len(labels)), labels]
    names = short(dataset.names)
    chosen = hardest(scores, labels)[: args.worst]
    columns = min(8, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.2 * rows), layout="constrained")
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        _show(axes, decode(dataset.train.content(index)))
        best = int(scores[index].argmax())
        title = f"{names[labels[index]]} {own[index]:.1%}\n{names[best]} {scores[index, best]:.0%}?"
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_xlabel(dataset.train.name(int(index)), fontsize=5)
    figure.suptitle("above each image: its label, and what it is taken for", fontsize=9)
    return figure


def hardest(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: the images, those first to whose own class the scores [N, C] give the least."""
    return np.argsort(scores[np.arange(len(labels)), labels], kind="stable")


def stages(dataset: Dataset, views: Views, final: Preprocessing) -> dict[str, NDArray[np.float32]]:
    """[n, size, size, 3] after each stage: the loader's output with later stages turned off."""
    resize, crop = final.resize, final.crop
    plain = Preprocessing.nothing(resize, crop)
    unflipped = views._replace(mirrored=np.zeros_like(views.mirrored))
    uncropped = unflipped._replace(corners=np.zeros_like(views.corners))
    forms = {
        "resized": (Preprocessing.nothing(resize), uncropped),
        "cropped": (plain, unflipped),
        "flipped": (plain, views),
        "lit": (replace(plain, directions=final.directions), views),
        "mean-subtracted": (final, views),
    }
    return {name: _load(dataset, form, shown) for name, (form, shown) in forms.items()}


def _load(dataset: Dataset, preprocessing: Preprocessing, views: Views) -> NDArray[np.float32]:
    (batch,) = Loader(dataset.train, _OneStep(views), preprocessing)
    return batch.images.permute(0, 2, 3, 1).numpy()


def _draw(
    dataset: Dataset,
    views: Views,
    rows: dict[str, NDArray[np.float32]],
    preprocessing: Preprocessing,
) -> Figure:
    """A column for each image; grey means 0 where the mean is subtracted."""
    resize, crop = preprocessing.resize, preprocessing.crop
    count = len(views.indices)
    figure = Figure(figsize=(1.7 * count + 0.5, 1.75 * (1 + len(rows)) + 0.3), layout="constrained")
    axes = figure.subplots(1 + len(rows), count, squeeze=False)
    figure.supxlabel("yellow frame: the crop", fontsize=8)
    names = short(dataset.names)
    for column, index in enumerate(views.indices):
        pixels = decode(dataset.train.content(index))
        title = names[dataset.train.labels[index]]
        axes[0, column].set_title(title, fontsize=8, parse_math=False)
        _show(axes[0, column], pixels)
        _outline(
            axes[0, column], (pixels.shape[0], pixels.shape[1]), views.corners[column], resize, crop
        )
    for row, (name, images) in enumerate(rows.items(), 1):
        for column, image in enumerate(images):
            _show(axes[row, column], image + (_GREY if name == "mean-subtracted" else 0))
    for row, name in enumerate(["decoded", *rows]):
        label = f"{name}\n(grey = 0)" if name == "mean-subtracted" else name
        axes[row, 0].set_ylabel(label, fontsize=9)
    return figure


def _show(axes: Axes, pixels: NDArray) -> None:
    axes.imshow(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    axes.set_xticks([])
    axes.set_yticks([])


def _outline(axes: Axes, size: tuple[int, int], corner: NDArray, resize: int, crop: int) -> None:
    """Where the crop lies in the whole image; the centres of pixels are at whole numbers."""
    scale = min(size) / resize
    top, left = ((side - min(size)) / 2 + place * scale - 0.5 for side, place in zip(size, corner))
    axes.add_patch(
        Rectangle(
            (left, top), crop * scale, crop * scale, fill=False, color="yellow", linewidth=1.2
        )
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("tools.show_batch", __doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="the folder of a run")
    parser.add_argument("--data", metavar="DIR", help="prepared folder (that of the RUN)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="of the RUN, from 1 (1)")
    parser.add_argument("--worst", type=int, metavar="N", help="the N hardest images of the RUN")
    parser.add_argument("--device", default="auto", help="for --worst: auto, cpu or cuda (auto)")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE.png",
        help="the picture to write (or .svg, .pdf, .jpg)",
    )
    parser.add_argument(
        "--images", type=int, default=8, metavar="N", help="how many images of a step (8)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a new run (0)")
    parser.add_argument(
        "--resize", type=int, default=256, metavar="PIXELS", help="shorter side in a new run (256)"
    )
    parser.add_argument(
        "--crop", type=int, default=224, metavar="PIXELS", help="side of crops in a new run (224)"
    )
    args = parser.parse_args(argv)
    check_name(Path(args.out))
    if not args.run and not args.data:
        raise ValueError("expected the folder of a RUN, or --data with a prepared folder")
    if args.worst is not None and (args.worst < 1 or not args.run):
        raise ValueError("--worst goes with a RUN and a number of images from 1")
    if not 0 < args.crop <= args.resize:
        raise ValueError(f"--crop is {args.crop}; expected 1 to --resize, which is {args.resize}")
    if args.images < 1:
        raise ValueError(f"--images is {args.images}; expected 1 or more")
    return args


if __name__ == "__main__":
    run(main)
