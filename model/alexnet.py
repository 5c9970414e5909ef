"""The paper's network: two columns, held by one process or by one rank each."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet_dali.model.column import Column
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig, check
from alexnet_dali.model.layers import PAPER, Layer, Linear, blocks, layers, shapes
from alexnet_dali.model.local_response_norm import Norm, local_response_norm
from alexnet_dali.model.randomness import bernoulli, generator, key
from alexnet_dali.model.side_by_side import side_by_side


class DropoutMasks:
    """The dropout masks of a training step: a function of (seed, step, layer).

    They are defined for the global batch and for both columns, so that every split of the work
    drops the same neurons on every device. This process sees the rows of pair `part`.

    What tells steps apart is one number for each layer, `keys` [] int64 on the device. They keep
    their addresses: a captured step draws new masks when it is replayed after `set_step`.
    """

    def __init__(self, seed: int, step: int, device: torch.device, part: int = 0) -> None:
        self._seed, self._part = seed, part
        self.keys = {
            layer.number: torch.empty((), dtype=torch.int64, device=device)
            for layer in PAPER
            if isinstance(layer, Linear) and layer.dropout
        }
        self.set_step(step)

    def set_step(self, step: int) -> None:
        """From now on, these are the masks of `step`.

        A key travels as the argument of a kernel: the host waits for nothing, and there is no
        buffer that it could fill again too early.
        """
        for number, own in self.keys.items():
            own.fill_(key(self._seed, "dropout", step, number))

    def kept(self, rows: int, neurons: range, width: int, layer: Linear) -> Tensor:
        """[rows, neurons] bool: which of these `neurons` of `width` stay, in this process's rows.

        `width` counts the layer's neurons in both columns.
        """
        own_rows = range(self._part * rows, (self._part + 1) * rows)
        return bernoulli(1 - layer.dropout, own_rows, neurons, width, self.keys[layer.number])


class AlexNet(nn.Module):
    """Images [N, 3, crop, crop] to logits [N, num_classes], through this process's columns."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        crop: int,
        columns: Columns | None = None,
        seed: int = 0,
        norm: Norm = local_response_norm,
    ) -> None:
        """Without `columns`, this process holds all of them.

        The weights depend on `seed` alone, not on who holds them. ValueError where sizes do not
        fit.
        """
        super().__init__()
        check(config)
        self.columns = columns or Columns.whole(config.columns)
        assert self.columns.num_columns == config.columns, (self.columns, config)
        self.num_classes = num_classes
        self.table = layers(config, num_classes)
        *self.blocks, _ = blocks(self.table)  # fc8 is a block of its own: see `forward`
        sizes = shapes(self.table, config.columns, crop)
        own = nn.ModuleList(Column(self.table, sizes, config, norm) for _ in self.columns.held)
        self.own_columns = cast(Sequence[Column], own)
        self._initialise(config, seed)
        # Convolutions and pooling are faster in this layout, above all on CPUs.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """Logits, the same on both partners.

        `masks` are the dropout masks of a training step; without them, nothing is dropped.
        """
        both = self.last_hidden(images, masks)
        # In bfloat16 many of a thousand logits would be equal, and ties count as errors.
        with torch.autocast("cuda" if both.is_cuda else "cpu", enabled=False):
            logits = [column.fc8(both.to(column.fc8.weight.dtype)) for column in self.own_columns]
            return self.columns.collect_logits(logits)[:, : self.num_classes]

    def last_hidden(self, images: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """[N, width]: both columns' activations in the last hidden layer (paper, section 6.1)."""
        first, *others = self.blocks
        images = images.to(self.own_columns[0].fc8.weight.dtype)
        maps = self._first_block(first, images.contiguous(memory_format=torch.channels_last))
        for block in others:
            both = self.columns.cross_talk(maps)
            if isinstance(block[0], Linear):
                both = both.flatten(1)
            maps = [column(both, block) for column in self.own_columns]
            maps = self._dropout(maps, block[-1], masks)
        return self.columns.cross_talk(maps).flatten(1)

    def full_state(self) -> dict[str, Tensor]:
        """The whole network's parameters by name, such as conv1.weight. Both partners call it."""
        return self.columns.merge([column.state_dict() for column in self.own_columns])

    def load_full_state(self, full: dict[str, Tensor]) -> None:
        """Take the own columns' parameters from the whole network's."""
        for column, own in zip(self.own_columns, self.columns.split(full), strict=True):
            column.load_state_dict(own)

    def _first_block(self, block: Sequence[Layer], images: Tensor) -> list[Tensor]:
        """The layers before the first cross talk, which each column computes from the images."""

        def run(column: Column, x: Tensor) -> Tensor:
            return column(x, block)

        both_on_cpu = images.device.type == "cpu" and len(self.own_columns) > 1
        if both_on_cpu and torch.is_grad_enabled() and not dist.is_initialized():
            return side_by_side(run, self.own_columns, images)
        return [run(column, images) for column in self.own_columns]

    def _dropout(
        self, hidden: list[Tensor], layer: Layer, masks: DropoutMasks | None
    ) -> list[Tensor]:
        """Drop neurons in training; otherwise keep all of them at half strength (section 4.2)."""
        if not isinstance(layer, Linear):
            return hidden
        if masks is None:
            return [x * (1 - layer.dropout) for x in hidden]
        rows, share = hidden[0].shape
        held = self.columns.held
        neurons = range(held[0] * share, (held[-1] + 1) * share)
        width = self.columns.num_columns * share
        kept = masks.kept(rows, neurons, width, layer)
        return [x * own for x, own in zip(hidden, kept.chunk(len(held), dim=1), strict=True)]

    @torch.no_grad()
    def _initialise(self, config: ModelConfig, seed: int) -> None:
        """Normal weights, and biases of 0 or 1 (section 5).

        Every process draws the weights of all columns and keeps its own.
        """
        draws = generator(torch.device("cpu"), seed, "weights")
        num_columns = self.columns.num_columns
        for layer in self.table:
            std, bias = config.init_std.of(layer.name), config.init_bias.of(layer.name)
            own = [cast(nn.Linear, getattr(column, layer.name)) for column in self.own_columns]
            rows, *fan_in = own[0].weight.shape
            full = torch.empty(num_columns * rows, *fan_in).normal_(0, std, generator=draws)
            for module, column in zip(own, self.columns.held, strict=True):
                module.weight.copy_(full.chunk(num_columns)[column])
                module.bias.fill_(bias)
