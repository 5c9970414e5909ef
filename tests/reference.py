"""The network and the update, written a second time as plainly as torch allows: what the real ones are held against."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.alexnet import AlexNet, Masks
from model.config import ModelConfig

TINY = ModelConfig(kernels=(8, 12, 16, 16, 12), conv1_size=5, conv1_stride=2, fc_width=24, init_std=(0.2,) * 8)
CROP = 36
CLASSES = 7  # odd: the two columns can't share the classes evenly


def column_norm(x: Tensor) -> Tensor:
    """Response norm within each half of the channels; torch divides alpha by its size, the paper does not."""
    return torch.cat(
        [F.local_response_norm(half, size=5, alpha=5 * 1e-4, beta=0.75, k=2.0) for half in x.chunk(2, 1)], 1
    )


def forward(p: dict[str, Tensor], images: Tensor, stride: int, classes: int, masks: list[Tensor] | None) -> Tensor:
    """Logits of the whole network, both columns side by side in grouped convolutions (paper, figure 2)."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options))

    def hidden(x: Tensor, name: str, mask: Tensor | None) -> Tensor:
        x = F.relu(F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]))
        return x * (0.5 if mask is None else mask)

    side, kernel = images.shape[-1], p["conv1.weight"].shape[-1]
    while (side - kernel) % stride:
        side += 1
    x = torch.zeros(*images.shape[:2], side, side, dtype=images.dtype)
    x[:, :, : images.shape[2], : images.shape[3]] = images
    x = F.max_pool2d(column_norm(conv(x, "conv1", stride=stride)), 3, 2)
    x = F.max_pool2d(column_norm(conv(x, "conv2", padding=2, groups=2)), 3, 2)
    x = conv(x, "conv3", padding=1)
    x = conv(x, "conv4", padding=1, groups=2)
    x = F.max_pool2d(conv(x, "conv5", padding=1, groups=2), 3, 2).flatten(1)
    x = hidden(x, "fc6", masks[0] if masks else None)
    x = hidden(x, "fc7", masks[1] if masks else None)
    return F.linear(x, p["fc8.weight"], p["fc8.bias"])[:, :classes]


def train(
    weights: dict[str, Tensor], batches: list[tuple[Tensor, Tensor]], masks: list[list[Tensor]], lrs: list[float]
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final weights after one update a batch, by the paper's rule for v and w (section 5)."""
    w = {key: value.clone() for key, value in weights.items()}
    v = {key: torch.zeros_like(value) for key, value in w.items()}
    losses = []
    for (images, labels), mask, lr in zip(batches, masks, lrs):
        p = {key: value.clone().requires_grad_() for key, value in w.items()}
        loss = F.cross_entropy(forward(p, images, TINY.conv1_stride, CLASSES, mask), labels)
        loss.backward()
        for key in w:
            gradient = p[key].grad
            assert gradient is not None
            v[key] = 0.9 * v[key] - 0.0005 * lr * w[key] - lr * gradient
            w[key] = w[key] + v[key]
        losses.append(loss.item())
    return losses, w


def expected(
    seed: int, batches: list[tuple[Tensor, Tensor]], lrs: list[float], device: torch.device
) -> tuple[list[float], dict[str, Tensor]]:
    """`train`, in float64, from the real network's first weights and with the dropout masks that `device` draws."""
    weights = AlexNet(TINY, CLASSES, CROP, seed=seed).double().full_state()
    masks = [
        [Masks(seed, step).draws(len(images), TINY.fc_width, layer, device).ge(0.5).double().cpu() for layer in (6, 7)]
        for step, (images, _) in enumerate(batches)
    ]
    return train(weights, batches, masks, lrs)
