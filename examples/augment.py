"""Augmentations of torchvision on batches: the same for any number of ranks, and after a resume.

python examples/augment.py prepared/imagenet
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alexnet_dali.pipeline import DataLoader, Pixels


def augment(
    transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
    together: int = 1,
) -> tuple[Tensor, Tensor]:
    """`transform` of each image, with random numbers that follow from (seed, step, row).

    Rows are those of the global batch, of which these begin at `first_row`. `together` rows are
    transformed at once: 2 for CutMix and MixUp, which then mix neighbours. Transforms draw from
    torch's own generators, whose states are put back.
    """
    if len(images) % together:
        raise ValueError(f"found {len(images)} rows; expected a multiple of {together}")
    parts = []
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        for start in range(0, len(images), together):
            words = np.random.SeedSequence((seed, step, first_row + start)).generate_state(2)
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
            rows = slice(start, start + together)
            parts.append(transform(images[rows], labels[rows]))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


if __name__ == "__main__":
    from torchvision.transforms import v2

    loader = DataLoader(sys.argv[1], global_batch_size=32, pixels=Pixels(dtype="uint8"))
    transform = v2.Compose(
        [
            v2.RandAugment(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(),
            v2.CutMix(num_classes=len(loader.classes)),
        ]
    )
    for images, labels in loader:
        row = loader.rank * len(images)
        step = loader.step - 1  # the loader counts this batch already
        images, labels = augment(
            transform, images, labels, seed=0, step=step, first_row=row, together=2
        )
        print(step, list(images.shape), list(labels.shape), f"{images.double().mean():.6f}")
