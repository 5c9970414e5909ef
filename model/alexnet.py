"""The network of the paper: two columns that one process holds together or two ranks hold one each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from model.columns import Columns
from model.config import NORMALISED, POOLED, ModelConfig, Stage, conv1_geometry, stages, stretches
from model.randomness import chances, generator
from model.response_norm import Norm, response_norm, same_map_norm
from model.side_by_side import side_by_side


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one training step: a function of (seed, step, layer).

    They are defined for the global batch and for both columns, so that every split of the work drops the same
    neurons, on every device; this process sees rows `part` of `num_parts`.
    """

    seed: int
    step: int
    part: int = 0
    num_parts: int = 1

    def kept(self, rows: int, neurons: range, width: int, layer: int, dropout: float, device: torch.device) -> Tensor:
        """[rows, neurons] bool: which of these `neurons`, of `width` in both columns, stay; this process's rows."""
        own_rows = range(self.part * rows, (self.part + 1) * rows)
        return chances(1 - dropout, own_rows, neurons, width, device, self.seed, "dropout", self.step, layer)


class Column(nn.Module):
    """One column: half of the kernels and neurons of every layer (paper, section 3.5 and figure 2)."""

    def __init__(self, config: ModelConfig, crop: int, outputs: int, norm: Norm) -> None:
        """`outputs` is this column's share of the classes; the weights are set by AlexNet."""
        super().__init__()
        self.config = config
        self.activation = F.relu if config.activation == "relu" else torch.tanh
        self.norm = norm
        _, self.conv1_pad = conv1_geometry(config, crop)
        for name, stage in stages(config, crop).items():
            if stage.kernels:
                self.add_module(name, self._convolution(name, stage))
        reads = config.columns * stage.maps * stage.side**2
        for name in ("fc6", "fc7"):
            if name not in config.leave_out:
                self.add_module(name, nn.Linear(reads, config.fc_width // config.columns))
                reads = config.fc_width
        self.fc8 = nn.Linear(reads, outputs)

    def _convolution(self, name: str, stage: Stage) -> nn.Conv2d:
        if name == "conv1":
            return nn.Conv2d(stage.reads, stage.kernels, self.config.conv1_size, stride=self.config.conv1_stride)
        size = 5 if name == "conv2" else 3
        return nn.Conv2d(stage.reads, stage.kernels, size, padding=size // 2)

    def convolve(self, names: Sequence[str], x: Tensor) -> Tensor:
        """Images, or the maps that the first of these layers reads, to this column's maps after the last of them."""
        for name in names:
            x = self._stage(name, x)
        return x

    def _stage(self, name: str, x: Tensor) -> Tensor:
        config = self.config
        late = name == "conv1" and config.conv1_relu == "after_pool"
        if name == "conv1":
            x = F.pad(x, (0, self.conv1_pad, 0, self.conv1_pad))
        if hasattr(self, name):
            x = self.get_submodule(name)(x)
            x = x if late else self.activation(x)
        if name in NORMALISED and config.response_norm:
            x = self.norm(x, config.norm_alpha)
        if name == "conv2" and config.same_map_norm:
            x = same_map_norm(x)
        if name in POOLED:
            x = F.max_pool2d(x, config.pool_size, stride=2)
        return self.activation(x) if late else x


class AlexNet(nn.Module):
    """Images [N, 3, crop, crop] to logits [N, num_classes], through the columns that this process holds."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        crop: int,
        columns: Columns | None = None,
        seed: int = 0,
        norm: Norm = response_norm,
    ) -> None:
        """Weights are a function of `seed` alone, whoever holds them; without `columns`, this process holds all.

        ValueError where sizes do not fit.
        """
        super().__init__()
        self.columns = columns or Columns.whole(config.columns)
        assert self.columns.number == config.columns, (self.columns, config)
        self.num_classes = num_classes
        self.dropout = config.dropout
        self.stretches = stretches(config)
        self.layers = [name for name in config.layers if name not in config.leave_out]
        outputs = -(-num_classes // config.columns)  # an odd number of classes leaves one output unused
        held = nn.ModuleList(Column(config, crop, outputs, norm) for _ in self.columns.held)
        self.held = cast(Sequence[Column], held)
        self._initialise(config, seed)
        # Convolutions and pooling are faster in this layout, above all on CPUs.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits, the same on both partners; with the dropout `masks` of a training step, or without dropout."""
        both = self.last_hidden(images, masks)
        # In bfloat16 many of a thousand logits would be equal, and ties count as errors.
        with torch.autocast("cuda" if both.is_cuda else "cpu", enabled=False):
            logits = [column.fc8(both.to(column.fc8.weight.dtype)) for column in self.held]
            return self.columns.collect_logits(logits)[:, : self.num_classes]

    def last_hidden(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """[N, width]: both columns' activations in the last hidden layer (paper, section 6.1)."""
        talk = self.columns.cross_talk
        first, *others = self.stretches
        maps = self._from_images(first, images.contiguous(memory_format=torch.channels_last))
        for names in others:
            both = talk(maps)
            maps = [column.convolve(names, both) for column in self.held]
        both = talk(maps).flatten(1)
        for number, name in ((6, "fc6"), (7, "fc7")):
            if name in self.layers:
                hidden = [column.activation(column.get_submodule(name)(both)) for column in self.held]
                both = talk(self._dropout(hidden, masks, number))
        return both

    def full_state(self) -> dict[str, Tensor]:
        """The whole network's parameters by name, such as conv1.weight. Both partners must call it."""
        return self.columns.merge([column.state_dict() for column in self.held])

    def load_full_state(self, full: dict[str, Tensor]) -> None:
        """Take the held columns' parameters from the whole network's."""
        for column, own in zip(self.held, self.columns.split(full), strict=True):
            column.load_state_dict(own)

    def _from_images(self, names: Sequence[str], images: Tensor) -> list[Tensor]:
        def run(column: Column, x: Tensor) -> Tensor:
            return column.convolve(names, x)

        alone = images.device.type == "cpu" and len(self.held) > 1 and not dist.is_initialized()
        if alone and torch.is_grad_enabled():
            return side_by_side(run, self.held, images)
        return [run(column, images) for column in self.held]

    def _dropout(self, hidden: list[Tensor], masks: Masks | None, layer: int) -> list[Tensor]:
        """Neurons left out in training, all of them at half strength otherwise (paper, section 4.2)."""
        if masks is None:
            return [x * (1 - self.dropout) for x in hidden]
        rows, width = hidden[0].shape
        held = self.columns.held
        neurons = range(held[0] * width, (held[-1] + 1) * width)
        kept = masks.kept(rows, neurons, self.columns.number * width, layer, self.dropout, hidden[0].device)
        return [x * own for x, own in zip(hidden, kept.chunk(len(held), dim=1), strict=True)]

    @torch.no_grad()
    def _initialise(self, config: ModelConfig, seed: int) -> None:
        """Normal weights, biases 0 or 1 (paper, section 5). Every process draws all and keeps its own."""
        draws = generator(torch.device("cpu"), seed, "weights")
        number = self.columns.number
        for name, std, bias in zip(config.layers, config.init_std, config.init_bias, strict=True):
            if name not in self.layers:
                continue
            layers = [getattr(column, name) for column in self.held]
            rows, *fan_in = layers[0].weight.shape
            full = torch.empty(number * rows, *fan_in).normal_(0, std, generator=draws).chunk(number)
            for layer, column in zip(layers, self.columns.held, strict=True):
                layer.weight.copy_(full[column])
                layer.bias.fill_(bias)
