"""Small JPEG files for tests, and prepared folders made of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_dali.tools import prep_imagenet


def smooth_image(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A photograph-like image: random colours, blurred, so that JPEG keeps it well."""
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_class_folders(
    root: Path, counts: dict[str, int], seed: int = 0, sides: tuple[int, int] = (60, 200)
) -> None:
    """Write `counts[name]` JPEG files of varied sizes into each class folder."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            height, width = (int(side) for side in rng.integers(*sides, size=2))
            smooth_image(rng, height, width).save(root / name / f"{index:03d}.jpg", quality=95)


def prepare(
    folder: Path, counts: dict[str, int], val_counts: dict[str, int] | None = None, *options: str
) -> Path:
    """Generate images, prepare them with these options, and return the prepared folder."""
    write_class_folders(folder / "images/train", counts, seed=1)
    write_class_folders(folder / "images/val", val_counts or counts, seed=2)
    out = folder / "prepared"
    arguments = ["--train", folder / "images/train", "--val", folder / "images/val", "--out", out]
    arguments += options
    prep_imagenet.main([str(argument) for argument in arguments])
    return out
