"""Generate JPEG files to learn from: ten textures and shapes over clutter.

    alexnet make-images .demo/images

Colours are random in every image, so they do not give the class away. Sizes and shapes vary.
"""

import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alexnet_dali.pipeline.system.files import atomic_folder
from alexnet_dali.pipeline.system.progress import progress
from alexnet_dali.tools.cli import command_line, run

CLASSES = (
    "checkerboard",
    "cross",
    "diagonal-stripes",
    "disc",
    "dots",
    "horizontal-stripes",
    "rings",
    "square",
    "triangle",
    "vertical-stripes",
)


def main(argv: list[str]) -> None:
    """Write `train` and `val` class folders into a new folder."""
    parser = command_line("alexnet make-images", __doc__)
    parser.add_argument("out", help="folder to make; it may not hold anything yet")
    parser.add_argument(
        "--train", type=int, default=3000, metavar="N", help="training images (3000)"
    )
    parser.add_argument("--val", type=int, default=500, metavar="N", help="validation images (500)")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    if out.exists() and any(out.iterdir()):
        raise ValueError(
            f"{out} exists and is not empty; nothing was changed: remove it, or choose another "
            "folder"
        )
    with atomic_folder(out) as folder:
        for number, (split, count) in enumerate((("train", args.train), ("val", args.val))):
            with progress(count, split, "images") as advance:
                for index in range(count):
                    rng = np.random.Generator(np.random.Philox(key=[number, index]))
                    name = CLASSES[index % len(CLASSES)]
                    path = folder / split / name / f"{index:05d}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    draw_image(name, rng).save(path, quality=int(rng.integers(75, 96)))
                    advance(1)


def draw_image(name: str, rng: np.random.Generator) -> Image.Image:
    """An RGB image of class `name`, 72 to 160 pixels a side: its pattern over clutter."""
    width, height = (int(side) for side in rng.integers(72, 161, size=2))
    image = _clutter(width, height, rng)
    side = min(width, height) * rng.uniform(0.6, 0.95)
    shift = (min(width, height) - side) / 2
    x = width / 2 + rng.uniform(-shift, shift)
    y = height / 2 + rng.uniform(-shift, shift)
    pixel_y, pixel_x = np.mgrid[:height, :width]
    inside = _pattern(name, 2 * (pixel_x - x) / side, 2 * (pixel_y - y) / side, rng)
    image[inside] = _colour(rng)
    image += rng.normal(0, rng.uniform(2, 12), image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def _pattern(name: str, x: NDArray, y: NDArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Where class `name` has its colour, for coordinates in which it fills [-1, 1] x [-1, 1]."""
    frequency, phase = rng.uniform(3, 6), rng.uniform(0, 1)
    radius = np.hypot(x, y)

    def stripes(along: NDArray) -> NDArray[np.bool_]:
        return (along * frequency / 2 + phase) % 1 < 0.5

    def turned(degrees: float) -> tuple[NDArray, NDArray]:
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)

    patch = radius < 1
    if name == "horizontal-stripes":
        return patch & stripes(turned(10)[1])
    if name == "vertical-stripes":
        return patch & stripes(turned(10)[0])
    if name == "diagonal-stripes":
        return patch & stripes((x + rng.choice([-1, 1]) * y) / np.sqrt(2))
    if name == "checkerboard":
        u, v = turned(10)
        return patch & (stripes(u) ^ stripes(v))
    if name == "dots":
        u, v = ((c * frequency / 2 + phase) % 1 - 0.5 for c in turned(45))
        return patch & (np.hypot(u, v) < 0.3)
    if name == "rings":
        return patch & stripes(radius)
    if name == "disc":
        return radius < 0.8
    if name == "square":
        u, v = turned(20)
        return np.maximum(abs(u), abs(v)) < 0.7
    if name == "cross":
        u, v = turned(20)
        return (np.minimum(abs(u), abs(v)) < 0.2) & (np.maximum(abs(u), abs(v)) < 0.85)
    u, v = turned(20)
    return (v < 0.7) & (v > 2 * abs(u) - 0.8)  # triangle


def _clutter(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[height, width, 3]: a gradient with lines, boxes and ellipses strewn over it."""
    ramp = np.linspace(0, 1, width)[None, :, None]
    image = Image.fromarray(
        (_colour(rng) * ramp + _colour(rng) * (1 - ramp)).repeat(height, axis=0).astype(np.uint8)
    )
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(6, 16)):
        left, top = rng.uniform(-10, width), rng.uniform(-10, height)
        box = [left, top, left + rng.uniform(4, width / 4), top + rng.uniform(4, height / 4)]
        kind = rng.integers(3)
        colour = tuple(int(c) for c in _colour(rng))
        if kind == 0:
            draw.line(box, fill=colour, width=int(rng.integers(1, 4)))
        elif kind == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.ellipse(box, fill=colour)
    return np.asarray(image).astype(np.float64)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """[3] a random RGB colour, 0..255."""
    return (
        np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.2, 1), rng.uniform(0.15, 1)))
        * 255
    )


if __name__ == "__main__":
    run(main)
