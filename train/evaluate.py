"""Error rates on held-out images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.alexnet import AlexNet
from pipeline.loader import NOT_COUNTED, Batch


@dataclass(frozen=True)
class ErrorRates:
    """Shares of images, in [0, 1], whose label is not the first, not among the first five, guesses."""

    top1_error: float
    top5_error: float
    num_images: int


def places_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """[N]: how many other classes score no less than the label's, from logits [N, C] and labels [N].

    A tie counts against the network, and so does a NaN: a network that says nothing is not right.
    """
    own = logits.gather(1, labels[:, None])
    return (~(logits < own)).sum(1) - 1


@torch.no_grad()
def error_rates(model: AlexNet, batches: Iterable[Batch], crop: int, add_up: Callable[[Tensor], Tensor]) -> ErrorRates:
    """Error rates over batches of central squares [n, 3, resize, resize], by their central crop.

    `add_up` adds counts over all that share the evaluation. Labels NOT_COUNTED are passed over.
    """
    counts = torch.zeros(3, dtype=torch.int64, device=next(model.parameters()).device)
    for batch in batches:
        places = places_of_labels(model(centre_view(batch.images, crop)), batch.labels.clamp(min=0))
        counted = batch.labels != NOT_COUNTED
        counts += torch.stack([((places >= 1) & counted).sum(), ((places >= 5) & counted).sum(), counted.sum()])
    top1, top5, num_images = add_up(counts).tolist()
    return ErrorRates(top1 / num_images, top5 / num_images, num_images)


def centre_view(images: Tensor, crop: int) -> Tensor:
    """The central `crop` x `crop` pixels of [N, 3, H, W]."""
    top, left = (images.shape[2] - crop) // 2, (images.shape[3] - crop) // 2
    return images[:, :, top : top + crop, left : left + crop]
