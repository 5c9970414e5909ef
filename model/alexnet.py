"""The network of the paper, in two columns that one process holds together or two ranks hold one each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.columns import NUM_COLUMNS, Columns
from model.randomness import generator
from model.response_norm import response_norm

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
BIAS_ONE = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""Layers whose biases start at 1, so that their ReLUs get positive inputs (paper, section 5)."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the defaults are the paper's (section 3.5).

    Args:
        kernels: kernels of the five convolutions, both columns together.
        conv1_size: side of the first layer's kernels in pixels.
        conv1_stride: stride of the first layer in pixels.
        fc_width: neurons of each hidden fully connected layer, both columns together.
        init_std: standard deviation of the initial weights, conv1 to fc8.
        dropout: probability with which a hidden neuron is left out in training (section 4.2).
    """

    kernels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    conv1_size: int = 11
    conv1_stride: int = 4
    fc_width: int = 4096
    init_std: tuple[float, float, float, float, float, float, float, float] = (0.01,) * 8
    dropout: float = 0.5


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one training step: a function of (seed, step, layer).

    They are drawn for the global batch and for both columns, so that every split of the work drops the same
    neurons; this process sees rows `part` of `num_parts`.
    """

    seed: int
    step: int
    part: int = 0
    num_parts: int = 1

    def draws(self, rows: int, width: int, layer: int, device: torch.device) -> Tensor:
        """[rows, width] uniform in [0, 1): this process's rows, both columns' neurons."""
        draw = generator(device, self.seed, "dropout", self.step, layer)
        full = torch.rand(rows * self.num_parts, width, generator=draw, device=device)
        return full[self.part * rows : (self.part + 1) * rows]


class AlexNet(nn.Module):
    """Images [N, 3, crop, crop] to logits [N, num_classes].

    Layer names and shapes are those of the full network; a process that holds one column has half of each
    parameter's rows.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int, crop: int, columns: Columns = Columns(), seed: int = 0
    ) -> None:
        """Weights are a function of `seed` alone, whoever holds them. ValueError where sizes do not fit."""
        super().__init__()
        _check(config, crop)
        self.columns = columns
        self.num_classes = num_classes
        self.dropout = config.dropout
        side, self.pad = _conv1_geometry(crop, config.conv1_size, config.conv1_stride)
        for _ in range(3):
            side = (side - 3) // 2 + 1  # each of the three pooling layers
        k1, k2, k3, k4, k5 = config.kernels
        both, half = columns.held, columns.held / NUM_COLUMNS

        def conv(inputs: int, kernels: int, size: int, groups: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
            """`inputs` are the maps that reach the layer; `groups` is 1 where every kernel reads all of them."""
            return nn.Conv2d(inputs, int(kernels * half), size, stride, padding, groups=groups)

        self.conv1 = conv(3, k1, config.conv1_size, groups=1, stride=config.conv1_stride)
        self.conv2 = conv(int(k1 * half), k2, 5, groups=both, padding=2)
        self.conv3 = conv(k2, k3, 3, groups=1, padding=1)
        self.conv4 = conv(int(k3 * half), k4, 3, groups=both, padding=1)
        self.conv5 = conv(int(k4 * half), k5, 3, groups=both, padding=1)
        outputs = num_classes + num_classes % NUM_COLUMNS  # an odd number of classes leaves one output unused
        self.fc6 = nn.Linear(k5 * side * side, int(config.fc_width * half))
        self.fc7 = nn.Linear(config.fc_width, int(config.fc_width * half))
        self.fc8 = nn.Linear(config.fc_width, int(outputs * half))
        self._initialise(config, seed)

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits, the same on both columns; with the dropout `masks` of a training step, or in full."""
        columns = self.columns
        x = F.relu(self.conv1(F.pad(images, (0, self.pad, 0, self.pad))))
        x = _pool(response_norm(x, columns.held))
        x = F.relu(self.conv2(x))
        x = columns.cross_talk(_pool(response_norm(x, columns.held)))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.relu(self.conv5(x))
        x = columns.cross_talk(_pool(x)).flatten(1)
        x = columns.cross_talk(self._dropout(F.relu(self.fc6(x)), masks, 6))
        x = columns.cross_talk(self._dropout(F.relu(self.fc7(x)), masks, 7))
        return columns.collect_logits(self.fc8(x))[:, : self.num_classes]

    def _dropout(self, x: Tensor, masks: Masks | None, layer: int) -> Tensor:
        """Neurons left out in training, all of them at half strength otherwise (paper, section 4.2)."""
        if masks is None:
            return x * (1 - self.dropout)
        draws = masks.draws(x.shape[0], x.shape[1] * NUM_COLUMNS // self.columns.held, layer, x.device)
        return x * self.columns.own(draws, dim=1).ge(self.dropout)

    @torch.no_grad()
    def _initialise(self, config: ModelConfig, seed: int) -> None:
        """Normal weights, biases 0 or 1 (paper, section 5). Every process draws all and keeps its own."""
        draws = generator(torch.device("cpu"), seed, "weights")
        for name, std in zip(LAYERS, config.init_std, strict=True):
            layer = getattr(self, name)
            full = (layer.weight.shape[0] * NUM_COLUMNS // self.columns.held, *layer.weight.shape[1:])
            layer.weight.copy_(self.columns.own(torch.empty(full).normal_(0, std, generator=draws)))
            layer.bias.fill_(1.0 if name in BIAS_ONE else 0.0)


def _pool(x: Tensor) -> Tensor:
    """Overlapping pooling: windows of 3, 2 apart (paper, section 3.4)."""
    return F.max_pool2d(x, kernel_size=3, stride=2)


def _conv1_geometry(crop: int, size: int, stride: int) -> tuple[int, int]:
    """Side of conv1's output, rounded up, and the zero rows that takes, all at the bottom and right (2012 code)."""
    pad = -(crop - size) % stride
    return (crop + pad - size) // stride + 1, pad


def _check(config: ModelConfig, crop: int) -> None:
    odd = [width for width in (*config.kernels, config.fc_width) if width % NUM_COLUMNS]
    if odd:
        raise ValueError(f"model: widths {odd} can't be shared by two columns; expected even numbers")
    if crop < config.conv1_size or _conv1_geometry(crop, config.conv1_size, config.conv1_stride)[0] < 15:
        raise ValueError(
            f"data.crop is {crop}: too small for conv1 of size {config.conv1_size}, stride {config.conv1_stride} and "
            "three pooling layers, which need an output of 15 x 15 or more; take larger crops or a smaller stride"
        )
