"""The network of the paper: two columns that one process holds together or two ranks hold one each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from model.columns import NUM_COLUMNS, Columns
from model.randomness import generator
from model.response_norm import Norm, response_norm
from model.side_by_side import side_by_side

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


class Column(nn.Module):
    """One column: half of the kernels and neurons of every layer (paper, section 3.5 and figure 2).

    conv3 and the fully connected layers read both columns, the other layers their own.
    """

    def __init__(self, config: ModelConfig, outputs: int, conv1_pad: int, pool5_side: int, norm: Norm) -> None:
        """`outputs` is this column's share of the classes; the weights are set by AlexNet."""
        super().__init__()
        own1, own2, own3, own4, own5 = (kernels // NUM_COLUMNS for kernels in config.kernels)
        both2, both5 = config.kernels[1], config.kernels[4]
        hidden = config.fc_width // NUM_COLUMNS
        self.conv1_pad = conv1_pad
        self.norm = norm
        self.conv1 = nn.Conv2d(3, own1, config.conv1_size, stride=config.conv1_stride)
        self.conv2 = nn.Conv2d(own1, own2, 5, padding=2)
        self.conv3 = nn.Conv2d(both2, own3, 3, padding=1)
        self.conv4 = nn.Conv2d(own3, own4, 3, padding=1)
        self.conv5 = nn.Conv2d(own4, own5, 3, padding=1)
        self.fc6 = nn.Linear(both5 * pool5_side**2, hidden)
        self.fc7 = nn.Linear(config.fc_width, hidden)
        self.fc8 = nn.Linear(config.fc_width, outputs)

    def conv1_to_pool2(self, images: Tensor) -> Tensor:
        """Images [N, 3, crop, crop] to this column's maps after the second pooling layer."""
        x = F.relu(self.conv1(F.pad(images, (0, self.conv1_pad, 0, self.conv1_pad))))
        x = _pool(self.norm(x))
        x = F.relu(self.conv2(x))
        return _pool(self.norm(x))

    def conv3_to_pool5(self, both: Tensor) -> Tensor:
        """Both columns' maps to this column's maps after the last pooling layer."""
        x = F.relu(self.conv3(both))
        x = F.relu(self.conv4(x))
        x = F.relu(self.conv5(x))
        return _pool(x)


class AlexNet(nn.Module):
    """Images [N, 3, crop, crop] to logits [N, num_classes], through the columns that this process holds."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        crop: int,
        columns: Columns = Columns(),
        seed: int = 0,
        norm: Norm = response_norm,
    ) -> None:
        """Weights are a function of `seed` alone, whoever holds them. ValueError where sizes do not fit."""
        super().__init__()
        _check(config, crop)
        self.columns = columns
        self.num_classes = num_classes
        self.dropout = config.dropout
        _, pad = _conv1_geometry(crop, config.conv1_size, config.conv1_stride)
        outputs = -(-num_classes // NUM_COLUMNS)  # an odd number of classes leaves one output unused
        held = nn.ModuleList(Column(config, outputs, pad, sides(config, crop)[-1], norm) for _ in columns.held)
        self.held = cast(Sequence[Column], held)
        self._initialise(config, seed)
        # Convolutions and pooling are faster in this layout, above all on CPUs.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits, the same on both partners; with the dropout `masks` of a training step, or without dropout."""
        both = self.last_hidden(images, masks)
        logits = self.columns.collect_logits([column.fc8(both) for column in self.held])
        return logits[:, : self.num_classes]

    def last_hidden(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """[N, fc_width]: both columns' activations in the last hidden layer (paper, section 6.1)."""
        talk = self.columns.cross_talk
        images = images.contiguous(memory_format=torch.channels_last)
        both = talk(self._conv1_to_pool2(images))
        both = talk([column.conv3_to_pool5(both) for column in self.held]).flatten(1)
        both = talk(self._dropout([F.relu(column.fc6(both)) for column in self.held], masks, 6))
        return talk(self._dropout([F.relu(column.fc7(both)) for column in self.held], masks, 7))

    def full_state(self) -> dict[str, Tensor]:
        """The whole network's parameters by name, such as conv1.weight. Both partners must call it."""
        return self.columns.merge([column.state_dict() for column in self.held])

    def load_full_state(self, full: dict[str, Tensor]) -> None:
        """Take the held columns' parameters from the whole network's."""
        for column, own in zip(self.held, self.columns.split(full), strict=True):
            column.load_state_dict(own)

    def _conv1_to_pool2(self, images: Tensor) -> list[Tensor]:
        if images.device.type == "cpu" and torch.is_grad_enabled() and not dist.is_initialized():
            return side_by_side(Column.conv1_to_pool2, self.held, images)
        return [column.conv1_to_pool2(images) for column in self.held]

    def _dropout(self, hidden: list[Tensor], masks: Masks | None, layer: int) -> list[Tensor]:
        """Neurons left out in training, all of them at half strength otherwise (paper, section 4.2)."""
        if masks is None:
            return [x * (1 - self.dropout) for x in hidden]
        rows, own_width = hidden[0].shape
        draws = masks.draws(rows, NUM_COLUMNS * own_width, layer, hidden[0].device).chunk(NUM_COLUMNS, dim=1)
        return [x * draws[column].ge(self.dropout) for x, column in zip(hidden, self.columns.held, strict=True)]

    @torch.no_grad()
    def _initialise(self, config: ModelConfig, seed: int) -> None:
        """Normal weights, biases 0 or 1 (paper, section 5). Every process draws all and keeps its own."""
        draws = generator(torch.device("cpu"), seed, "weights")
        for name, std in zip(LAYERS, config.init_std, strict=True):
            layers = [getattr(column, name) for column in self.held]
            rows, *fan_in = layers[0].weight.shape
            full = torch.empty(NUM_COLUMNS * rows, *fan_in).normal_(0, std, generator=draws).chunk(NUM_COLUMNS)
            for layer, column in zip(layers, self.columns.held, strict=True):
                layer.weight.copy_(full[column])
                layer.bias.fill_(1.0 if name in BIAS_ONE else 0.0)


def sides(config: ModelConfig, crop: int) -> tuple[int, int, int, int]:
    """Sides of the maps after conv1 and after the pooling layers that follow conv1, conv2 and conv5."""
    conv1, _ = _conv1_geometry(crop, config.conv1_size, config.conv1_stride)
    pool1 = _pooled(conv1)
    pool2 = _pooled(pool1)
    return conv1, pool1, pool2, _pooled(pool2)


def _pool(x: Tensor) -> Tensor:
    """Overlapping pooling: windows of 3, 2 apart (paper, section 3.4)."""
    return F.max_pool2d(x, kernel_size=3, stride=2)


def _pooled(side: int) -> int:
    """Side of what `_pool` makes of maps of this side."""
    return (side - 3) // 2 + 1


def _conv1_geometry(crop: int, size: int, stride: int) -> tuple[int, int]:
    """Side of conv1's output, rounded up, and the zero rows that takes, all at the bottom and right (2012 code)."""
    pad = -(crop - size) % stride
    return (crop + pad - size) // stride + 1, pad


def _check(config: ModelConfig, crop: int) -> None:
    if min(config.conv1_size, config.conv1_stride) < 1 or min(config.init_std) < 0 or not 0 <= config.dropout < 1:
        raise ValueError(
            f"model: found conv1_size {config.conv1_size}, conv1_stride {config.conv1_stride}, init_std "
            f"{list(config.init_std)}, dropout {config.dropout:g}; expected sizes of 1 or more, no negative deviation, "
            "and a dropout of at least 0 and less than 1"
        )
    odd = [width for width in (*config.kernels, config.fc_width) if width % NUM_COLUMNS or width < NUM_COLUMNS]
    if odd:
        raise ValueError(f"model: widths {odd} can't be shared by two columns; expected even numbers")
    if crop < config.conv1_size or _conv1_geometry(crop, config.conv1_size, config.conv1_stride)[0] < 15:
        raise ValueError(
            f"data.crop is {crop}: too small for conv1 of size {config.conv1_size}, stride {config.conv1_stride} and "
            "three pooling layers, which need an output of 15 x 15 or more; take larger crops or a smaller stride"
        )
