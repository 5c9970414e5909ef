"""Draw what the network sees: the first images of a run, a row for each stage of the pipeline.

python -m tools.show_batch --data prepared/imagenet --out batch.png
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
from pipeline.files import atomic_write
from pipeline.loader import Loader
from pipeline.plan import TrainingPlan, Views
from pipeline.preprocessing import Preprocessing
from tools.cli import run

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
    dataset = Dataset.open(Path(args.data))
    if args.images > len(dataset.train):
        raise ValueError(
            f"--images is {args.images}; {args.data} has {len(dataset.train)} training images"
        )
    plan = TrainingPlan(
        len(dataset.train), args.images, args.resize - args.crop, args.seed, num_steps=1
    )
    views = plan.views(0, 0, 1)
    figure = _draw(
        dataset, views, stages(dataset, views, args.resize, args.crop), args.resize, args.crop
    )
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(args.out)) as file:
        figure.savefig(file, format="png", dpi=110)


def stages(
    dataset: Dataset, views: Views, resize: int, crop: int
) -> dict[str, NDArray[np.float32]]:
    """[n, size, size, 3] after each stage: the loader's output with later stages turned off."""
    final = Preprocessing.of(dataset.stats, resize, crop, "image", lighting_std=0.1)
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
    dataset: Dataset, views: Views, rows: dict[str, NDArray[np.float32]], resize: int, crop: int
) -> Figure:
    count = len(views.indices)
    figure = Figure(figsize=(1.7 * count + 0.5, 1.75 * (1 + len(rows)) + 0.3), layout="constrained")
    axes = figure.subplots(1 + len(rows), count, squeeze=False)
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
        axes[row, 0].set_ylabel(name, fontsize=9)
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
    parser = argparse.ArgumentParser(
        prog="python -m tools.show_batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many images (8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the run (0)")
    parser.add_argument(
        "--resize", type=int, default=256, metavar="PIXELS", help="shorter side (256)"
    )
    parser.add_argument(
        "--crop", type=int, default=224, metavar="PIXELS", help="side of the crop (224)"
    )
    args = parser.parse_args(argv)
    if not 0 < args.crop <= args.resize:
        raise ValueError(f"--crop is {args.crop}; expected 1 to --resize, which is {args.resize}")
    if args.images < 1:
        raise ValueError(f"--images is {args.images}; expected 1 or more")
    return args


if __name__ == "__main__":
    run(main)
