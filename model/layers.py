"""The network as a table, a layer for each layer (section 3.5); variants edit lines of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from alexnet_dali.model.config import ModelConfig


@dataclass(frozen=True)
class Conv:
    """A convolution and what follows it. `kernels` counts those of both columns."""

    name: str
    kernels: int
    size: int
    padding: int
    stride: int = 1
    reads_both: bool = False  # True: both columns' maps; False: only its own (section 3.5)
    norm: bool = False  # response norm across maps (section 3.3)
    within_channel_norm: bool = (
        False  # and once more, across neighbours in the same map (2012 code)
    )
    pool: int = 0  # side of the windows of max pooling, which are 2 apart; 0 for none (section 3.4)
    activation_last: bool = False  # after pooling, not right after the convolution (2012 code)


@dataclass(frozen=True)
class Linear:
    """A fully connected layer. It reads both columns; `neurons` counts those of both."""

    name: str
    neurons: int
    dropout: float = 0.0  # probability with which a neuron is left out in training (section 4.2)

    reads_both: ClassVar[bool] = True

    @property
    def number(self) -> int:
        """Which layer of the paper's eight it is."""
        return int(self.name.removeprefix("fc"))


Layer = Conv | Linear

PAPER: tuple[Layer, ...] = (
    Conv("conv1", 96, size=11, padding=0, stride=4, norm=True, pool=3),
    Conv("conv2", 256, size=5, padding=2, norm=True, pool=3),
    Conv("conv3", 384, size=3, padding=1, reads_both=True),
    Conv("conv4", 384, size=3, padding=1),
    Conv("conv5", 256, size=3, padding=1, pool=3),
    Linear("fc6", 4096, dropout=0.5),
    Linear("fc7", 4096, dropout=0.5),
    Linear("fc8", 1000),
)


class Shape(NamedTuple):
    """What a layer reads and gives in one column."""

    in_channels: int  # maps or, in a fully connected layer, numbers: maps times pixels, or neurons
    gives: int  # maps or neurons
    side: int  # of the maps that come out, in pixels; 1 in a fully connected layer


def layers(config: ModelConfig, num_classes: int) -> list[Layer]:
    """The paper's table, with the lines that `config` edits."""
    table = [_edited(layer, config, num_classes) for layer in PAPER]
    if config.sixth_convolution:
        fifth = next(place for place, layer in enumerate(table) if layer.name == "conv5")
        table.insert(
            fifth + 1, Conv("conv6", config.kernels[4], size=3, padding=1, reads_both=True)
        )
    for name in dict.fromkeys(config.skip_layers):
        table = _without(name, table)
    return table


def shapes(table: Sequence[Layer], columns: int, crop: int) -> dict[str, Shape]:
    """The shape of each layer by its name, for images of `crop` pixels.

    ValueError where pooling leaves nothing.
    """
    found: dict[str, Shape] = {}
    maps, side = 3, crop
    for layer in table:
        seen = columns * maps if layer.reads_both else maps
        if isinstance(layer, Linear):
            shape = Shape(seen * side**2, -(-layer.neurons // columns), 1)
        else:
            shape = Shape(seen, layer.kernels // columns, _side(layer, side))
            if side + 2 * layer.padding < layer.size or shape.side < 1:
                raise ValueError(
                    f"data.crop is {crop}, which leaves nothing of the maps at {layer.name}; take "
                    "larger crops, or a smaller model.conv1_size or model.conv1_stride"
                )
        found[layer.name] = shape
        maps, side = shape.out_channels, shape.side
    return found


def blocks(table: Sequence[Layer]) -> list[list[Layer]]:
    """The table cut into runs of layers that a column computes alone.

    Between them, the columns exchange maps. The paper's blocks are conv1 and conv2; conv3 to conv5;
    fc6; fc7; fc8.
    """
    cut: list[list[Layer]] = [[]]
    for layer in table:
        if layer.reads_both:
            cut.append([])
        cut[-1].append(layer)
    return cut


def _edited(layer: Layer, config: ModelConfig, num_classes: int) -> Layer:
    if isinstance(layer, Linear):
        if not layer.dropout:
            return replace(layer, neurons=num_classes)
        return replace(layer, neurons=config.fc_width, dropout=config.dropout)
    kernels = config.kernels_by_name[layer.name]
    layer = replace(
        layer,
        kernels=kernels // 2 if layer.name in config.half_kernels else kernels,
        reads_both=layer.name in config.cross_talk,
        norm=layer.norm and config.local_response_norm,
        pool=config.pool_size if layer.pool else 0,
    )
    if layer.name == "conv1":
        late = config.conv1_relu == "after_pool"
        return replace(
            layer, size=config.conv1_size, stride=config.conv1_stride, activation_last=late
        )
    if layer.name == "conv2":
        return replace(layer, within_channel_norm=config.within_channel_norm)
    return layer


def _without(name: str, table: list[Layer]) -> list[Layer]:
    """The table without a layer; the layer before it takes over its pooling."""
    place = next(place for place, layer in enumerate(table) if layer.name == name)
    left_out, before = table[place], table[place - 1]
    if isinstance(left_out, Conv) and isinstance(before, Conv) and left_out.pool:
        if before.pool:
            raise ValueError(
                "model.skip_layers leaves no convolution between two pooling layers; keep one of "
                "conv3, conv4, conv5"
            )
        before = replace(before, pool=left_out.pool)
    return [*table[: place - 1], before, *table[place + 1 :]]


def _side(layer: Conv, side: int) -> int:
    """The side of the maps that come out: convolution rounds up (2012 code), pooling down."""
    side = -(-(side + 2 * layer.padding - layer.size) // layer.stride) + 1
    return (side - layer.pool) // 2 + 1 if layer.pool else side
