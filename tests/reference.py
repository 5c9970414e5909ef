"""The network and the update, written a second time as plainly as torch allows.

Tests compare the real network and optimizer with these.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.config import ModelConfig, PerLayer

TINY = ModelConfig(
    kernels=(8, 12, 16, 16, 12), conv1_size=5, conv1_stride=2, fc_width=24, init_std=PerLayer(0.2)
)
CROP = 36
CLASSES = 7  # odd: the two columns can't share the classes evenly


def norm_over_maps(x: Tensor, config: ModelConfig) -> Tensor:
    """Response norm within each column's channels.

    torch divides alpha by its size; the paper does not.
    """
    parts = x.chunk(config.columns, 1)
    return torch.cat(
        [
            F.local_response_norm(part, size=5, alpha=5 * config.norm_alpha, beta=0.75, k=2.0)
            for part in parts
        ],
        1,
    )


def norm_in_map(x: Tensor) -> Tensor:
    """The 2012 code's second norm: squares of 5 x 5 neighbours are summed, 0.001 / 25 each."""
    squares = F.conv2d(
        (x**2).flatten(0, 1)[:, None], torch.ones(1, 1, 5, 5, dtype=x.dtype), padding=2
    )
    return x / (1 + 0.001 / 25 * squares.view_as(x)) ** 0.75


def forward(
    p: dict[str, Tensor],
    images: Tensor,
    classes: int,
    masks: list[Tensor] | None,
    config: ModelConfig = TINY,
) -> Tensor:
    """Logits of the whole network; grouped convolutions hold both columns (paper, figure 2)."""
    act = F.relu if config.activation == "relu" else torch.tanh

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        if f"{name}.weight" not in p:
            return x
        sees_all = name in ("conv1", "conv6", *config.cross_talk)
        options["groups"] = 1 if sees_all else config.columns
        return act(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options))

    def norm(x: Tensor) -> Tensor:
        return norm_over_maps(x, config) if config.local_response_norm else x

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, config.pool_size, 2)

    def hidden(x: Tensor, name: str, mask: Tensor | None) -> Tensor:
        if f"{name}.weight" not in p:
            return x
        x = act(F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]))
        return x * (1 - config.dropout if mask is None else mask)

    side, kernel, stride = images.shape[-1], p["conv1.weight"].shape[-1], config.conv1_stride
    while (side - kernel) % stride:
        side += 1
    x = torch.zeros(*images.shape[:2], side, side, dtype=images.dtype)
    x[:, :, : images.shape[2], : images.shape[3]] = images
    if config.conv1_relu == "after_pool":
        x = act(pool(norm(F.conv2d(x, p["conv1.weight"], p["conv1.bias"], stride=stride))))
    else:
        x = pool(norm(conv(x, "conv1", stride=stride)))
    x = norm(conv(x, "conv2", padding=2))
    x = pool(norm_in_map(x) if config.within_channel_norm else x)
    x = conv(x, "conv3", padding=1)
    x = conv(x, "conv4", padding=1)
    x = pool(conv(x, "conv5", padding=1))
    x = conv(x, "conv6", padding=1).flatten(1)
    x = hidden(x, "fc6", masks[0] if masks else None)
    x = hidden(x, "fc7", masks[1] if masks else None)
    return F.linear(x, p["fc8.weight"], p["fc8.bias"])[:, :classes]


def train(
    weights: dict[str, Tensor],
    batches: list[tuple[Tensor, Tensor]],
    masks: list[list[Tensor]],
    lrs: list[float],
    config: ModelConfig,
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final weights after one update for each batch.

    The update is the paper's rule for v and w (section 5).
    """
    w = {key: value.clone() for key, value in weights.items()}
    v = {key: torch.zeros_like(value) for key, value in w.items()}
    losses = []
    for (images, labels), mask, lr in zip(batches, masks, lrs):
        p = {key: value.clone().requires_grad_() for key, value in w.items()}
        loss = F.cross_entropy(forward(p, images, CLASSES, mask, config), labels)
        loss.backward()
        for key in w:
            gradient = p[key].grad
            assert gradient is not None
            v[key] = 0.9 * v[key] - 0.0005 * lr * w[key] - lr * gradient
            w[key] = w[key] + v[key]
        losses.append(loss.item())
    return losses, w


def split_mix(seed: int, count: int) -> np.ndarray:
    """The first `count` numbers of SplitMix64, as uint64.

    See Steele, Lea and Flood, 2014, figure 16.
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def mask(rows: int, width: int, dropout: float, *purpose: object) -> Tensor:
    """A dropout mask [rows, width]: 1 for neurons that stay, numbered row by row."""
    seed = int.from_bytes(hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest(), "little")
    # Numbers are read as signed. Those below a threshold stay, so the top bits decide.
    signed = split_mix(seed, rows * width).view(np.int64).astype(np.float64)
    return torch.from_numpy((signed < (0.5 - dropout) * 2.0**64).astype(np.float64)).view(
        rows, width
    )


def expected(
    seed: int, batches: list[tuple[Tensor, Tensor]], lrs: list[float], config: ModelConfig = TINY
) -> tuple[list[float], dict[str, Tensor]]:
    """`train` in float64, from the real network's initial weights and with its dropout."""
    weights = AlexNet(config, CLASSES, CROP, seed=seed).double().full_state()
    masks = [
        [
            mask(len(images), config.fc_width, config.dropout, seed, "dropout", step, layer)
            for layer in (6, 7)
        ]
        for step, (images, _) in enumerate(batches)
    ]
    return train(weights, batches, masks, lrs, config)
