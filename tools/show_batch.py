"""Draw what the network sees: images of a step, a row for each stage of the pipeline.

    alexnet show-batch --data prepared/imagenet --out batch.png
    alexnet show-batch runs/alexnet --step 12345 --out step.png
    alexnet show-batch runs/alexnet --worst 16 --out worst.png
    alexnet show-batch runs/alexnet --worst 500 --csv > worst.csv

A run's batches follow from its recipe, so any step of a RUN can be drawn again. With --worst, the
training images that its newest checkpoint finds hardest, as a list, too: wrong labels are often
among them.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from alexnet_dali.pipeline.crops import RandomCrop, squares
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.decode import decode
from alexnet_dali.pipeline.feeder import Feeder
from alexnet_dali.pipeline.messages import one_line, short
from alexnet_dali.pipeline.plan import EpochPlan, OneStep, Samples, shuffled
from alexnet_dali.pipeline.transform import Pixels, Transform
from alexnet_dali.tools import tables
from alexnet_dali.tools.cli import command_line, for_programs, run
from alexnet_dali.tools.paper.drawing import Figure, check_name, write_figure
from alexnet_dali.train.checkpoints.run_folder import read_config
from alexnet_dali.train.data import training_loader, training_plan
from alexnet_dali.train.evaluation import Outcomes
from alexnet_dali.train.networks import judge, open_network
from alexnet_dali.train.parallel.ranks import join

_GREY = 128.0  # what zero is drawn as, in rows whose mean is subtracted


def main(argv: list[str]) -> None:
    """Draw or list what the arguments ask for; ValueError or OSError where that fails."""
    args = _arguments(argv)
    if args.worst:
        _show_hardest(args)
        return
    if args.run:
        figure = step_of(args.run, args.step, args.data, args.images)
    else:
        figure = first_step(args.data, args.images, args.resize, args.crop, args.seed)
    write_figure(figure, Path(args.out), dpi=110)


def first_step(
    data: str | Path, images: int = 8, resize: int = 256, crop: int = 224, seed: int = 0
) -> Figure:
    """The first images of a run with the paper's recipe on a prepared folder."""
    dataset = Dataset.open(Path(data))
    dataset.train.check_is_there()
    if images > len(dataset.train):
        raise ValueError(f"--images is {images}; {data} has {len(dataset.train)} training images")
    crops = RandomCrop(crop, resize)
    plan = EpochPlan(dataset.train, images, crops, shuffled, seed)
    samples = plan.samples(0, 0, 1)
    transform = Pixels("image", (1.0, 1.0, 1.0), lighting_std=0.1).transform(dataset.stats, crops)
    return _draw(dataset, samples, stages(dataset, samples, transform, resize))


def step_of(
    run: str | Path, step: int = 1, data: str | Path | None = None, images: int = 8
) -> Figure:
    """The first images of a step of a run, as the run's recipe shows them; its data by default."""
    config = read_config(Path(run))
    dataset = Dataset.open(Path(data or str(config.data.root)))
    plan = training_plan(config.train, dataset, config.run.max_steps)
    if not 1 <= step <= plan.num_steps:
        raise ValueError(f"--step is {step}; {run} has steps 1 to {plan.num_steps}")
    loader = training_loader(dataset, config.data, config.train, step - 1)
    samples = loader.plan.samples(step - 1, 0, 1).part(slice(images))
    rows = stages(dataset, samples, loader.transform, config.data.resize)
    pixels, _ = next(iter(loader))
    rows["mean-subtracted"] = pixels[:images].permute(0, 2, 3, 1).numpy()
    return _draw(dataset, samples, rows)


class Hard(NamedTuple):
    """A training image, its label and what it is taken for, and the probability of each."""

    number: int
    path: str
    label: str
    label_probability: float
    taken_for: str
    probability: float


def worst(
    run: str | Path, count: int, data: str | Path | None = None, device: str = "auto"
) -> Figure:
    """Training images with the least probability for their label, and what they are taken for."""
    return _draw_hardest(*_find_hardest(run, count, data, device))


def _find_hardest(
    run: str | Path, count: int, data: str | Path | None, device: str
) -> tuple[Dataset, list[Hard]]:
    config = read_config(Path(run))
    dataset = Dataset.open(Path(data or str(config.data.root)))
    with join(device, num_columns=1) as ranks:
        network = open_network(Path(run), ranks.device)
        (images,) = judge([network], dataset, ranks, num_views=1, split="train")
    names = short(dataset.names)
    found = []
    for index in hardest(images)[:count].tolist():
        label, guess = names[images.labels[index]], names[images.guesses[index]]
        named = label, float(images.own[index]), guess, float(images.best[index])
        found.append(Hard(index, dataset.train.path(index), *named))
    return dataset, found


def _show_hardest(args: argparse.Namespace) -> None:
    """List the training images with the least probability for their label, and draw them."""
    dataset, found = _find_hardest(args.run, args.worst, args.data, args.device)
    if args.out:
        write_figure(_draw_hardest(dataset, found), Path(args.out), dpi=110)
    if args.csv:
        writer = csv.writer(for_programs())
        writer.writerow(Hard._fields[1:])
        writer.writerows(one[1:] for one in found)
        return
    rows = []
    for one in found:
        label = one.label, f"{one.label_probability:.2%}"
        rows.append([one_line(one.path), *label, one.taken_for, f"{one.probability:.2%}"])
    headings = ["training image", "label", "probability", "taken for", "probability"]
    print(tables.plain(rows, headings, right={2, 4}))


def _draw_hardest(dataset: Dataset, found: list[Hard]) -> Figure:
    columns = min(8, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.2 * rows), layout="constrained")
    for place, one in enumerate(found, 1):
        axes = figure.add_subplot(rows, columns, place)
        _show(axes, decode(dataset.train.content(one.number)))
        title = f"{one.label} {one.label_probability:.1%}\n{one.taken_for} {one.probability:.0%}?"
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_xlabel(dataset.train.name(one.number), fontsize=5)
    figure.suptitle("above each image: its label, and what it is taken for", fontsize=9)
    return figure


def hardest(images: Outcomes) -> NDArray[np.int64]:
    """[N]: the images, those first to whose own class the network gives the least."""
    return np.argsort(images.own, kind="stable")


def stages(
    dataset: Dataset, samples: Samples, final: Transform, resize: int
) -> dict[str, NDArray[np.float32]]:
    """[n, size, size, 3] after each stage: the loader's output with later stages turned off."""
    plain = Transform(final.size, None, np.zeros((3, 3)))
    unflipped = samples._replace(mirrored=np.zeros_like(samples.mirrored))
    sizes = dataset.train.sizes[samples.indices]
    uncropped = unflipped._replace(boxes=squares(sizes, np.zeros(2), resize, resize))
    forms = {
        "resized": (replace(plain, size=resize), uncropped),
        "cropped": (plain, unflipped),
        "flipped": (plain, samples),
        "lit": (replace(plain, directions=final.directions), samples),
        "mean-subtracted": (final, samples),
    }
    return {name: _load(dataset, form, shown) for name, (form, shown) in forms.items()}


def _load(dataset: Dataset, transform: Transform, samples: Samples) -> NDArray[np.float32]:
    batch = Feeder(dataset.train, OneStep(samples), transform).next()
    return batch.images.permute(0, 2, 3, 1).numpy()


def _draw(dataset: Dataset, samples: Samples, rows: dict[str, NDArray[np.float32]]) -> Figure:
    """A column for each image; grey means 0 where the mean is subtracted."""
    count = len(samples.indices)
    figure = Figure(figsize=(1.7 * count + 0.5, 1.75 * (1 + len(rows)) + 0.3), layout="constrained")
    axes = figure.subplots(1 + len(rows), count, squeeze=False)
    figure.supxlabel("yellow frame: the crop", fontsize=8)
    names = short(dataset.names)
    for column, index in enumerate(samples.indices):
        title = names[dataset.train.labels[index]]
        axes[0, column].set_title(title, fontsize=8, parse_math=False)
        _show(axes[0, column], decode(dataset.train.content(index)))
        _outline(axes[0, column], samples.boxes[column])
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


def _outline(axes: Axes, box: NDArray[np.float64]) -> None:
    """Where the crop lies in the whole image; the centres of pixels are at whole numbers."""
    top, left, bottom, right = box.tolist()
    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left,
            bottom - top,
            fill=False,
            color="yellow",
            linewidth=1.2,
        )
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet show-batch", __doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="the folder of a run")
    parser.add_argument("--data", metavar="DIR", help="prepared folder (that of the RUN)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="of the RUN, from 1 (1)")
    parser.add_argument("--worst", type=int, metavar="N", help="the N hardest images of the RUN")
    parser.add_argument(
        "--csv", action="store_true", help="print --worst as comma-separated values"
    )
    parser.add_argument("--device", default="auto", help="for --worst: auto, cpu or cuda (auto)")
    parser.add_argument(
        "--out",
        metavar="FILE.png",
        help="the picture to write (or .svg, .pdf, .jpg); --worst does without",
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
    if args.out:
        check_name(Path(args.out))
    elif not args.worst:
        raise ValueError("expected --out with the picture to write")
    if not args.run and not args.data:
        raise ValueError("expected the folder of a RUN, or --data with a prepared folder")
    if args.worst is not None and (args.worst < 1 or not args.run):
        raise ValueError("--worst goes with a RUN and a number of images from 1")
    if not 0 < args.crop <= args.resize:
        raise ValueError(f"--crop is {args.crop}; expected 1 to --resize, which is {args.resize}")
    if args.csv and not args.worst:
        raise ValueError("--csv goes with --worst")
    if args.images < 1:
        raise ValueError(f"--images is {args.images}; expected 1 or more")
    return args


if __name__ == "__main__":
    run(main)
