"""The network as a table, a line for each layer (section 3.5); variants edit lines of it."""

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
    same_map_norm: bool = False  # and once more, across neighbours in the same map (2012 code)
    pool: int = 0  # side of the windows of max pooling, which are 2 apart; 0 for none (section 3.4)
    activation_last: bool = False  # after pooling, not right after the convolution (2012 code)


@dataclass(frozen=True)
class Full:
    """A fully connected layer. It reads both columns; `neurons` counts those of both."""

    name: str
    neurons: int
    dropout: float = 0.0  # probability with which a neuron is left out in training (section 4.2)

    reads_both: ClassVar[bool] = True

    @property
    def number(self) -> int:
        """Which layer of the paper's eight it is."""
        return int(self.name.removeprefix("fc"))


Layer = Conv | Full

PAPER: tuple[Layer, ...] = (
    Conv("conv1", 96, size=11, padding=0, stride=4, norm=True, pool=3),
    Conv("conv2", 256, size=5, padding=2, norm=True, pool=3),
    Conv("conv3", 384, size=3, padding=1, reads_both=True),
    Conv("conv4", 384, size=3, padding=1),
    Conv("conv5", 256, size=3, padding=1, pool=3),
    Full("fc6", 4096, dropout=0.5),
    Full("fc7", 4096, dropout=0.5),
    Full("fc8", 1000),
)


class Shape(NamedTuple):
    """What a layer reads and gives in one column."""

    reads: int  # maps or, in a fully connected layer, numbers: maps times pixels, or neurons
    gives: int  # maps or neurons
    side: int  # of the maps that come out, in pixels; 1 in a fully connected layer


def layers(config: ModelConfig, num_classes: int) -> list[Layer]:
    """The paper's table, with the lines that `config` edits."""
    table = [_edited(line, config, num_classes) for line in PAPER]
    if config.sixth_convolution:
        fifth = next(place for place, line in enumerate(table) if line.name == "conv5")
        table.insert(
            fifth + 1, Conv("conv6", config.kernels[4], size=3, padding=1, reads_both=True)
        )
    for name in dict.fromkeys(config.leave_out):
        table = _without(name, table)
    return table


def shapes(table: Sequence[Layer], columns: int, crop: int) -> dict[str, Shape]:
    """The shape of each layer by its name, for images of `crop` pixels.

    ValueError where pooling leaves nothing.
    """
    found: dict[str, Shape] = {}
    maps, side = 3, crop
    for line in table:
        seen = columns * maps if line.reads_both else maps
        if isinstance(line, Full):
            shape = Shape(seen * side**2, -(-line.neurons // columns), 1)
        else:
            shape = Shape(seen, line.kernels // columns, _side(line, side))
            if side + 2 * line.padding < line.size or shape.side < 1:
                raise ValueError(
                    f"data.crop is {crop}, which leaves nothing of the maps at {line.name}; take "
                    "larger crops, or a smaller model.conv1_size or model.conv1_stride"
                )
        found[line.name] = shape
        maps, side = shape.gives, shape.side
    return found


def blocks(table: Sequence[Layer]) -> list[list[Layer]]:
    """The table cut into runs of layers that a column computes alone.

    Between them, the columns exchange maps. The paper's blocks are conv1 and conv2; conv3 to conv5;
    fc6; fc7; fc8.
    """
    cut: list[list[Layer]] = [[]]
    for line in table:
        if line.reads_both:
            cut.append([])
        cut[-1].append(line)
    return cut


def _edited(line: Layer, config: ModelConfig, num_classes: int) -> Layer:
    if isinstance(line, Full):
        if not line.dropout:
            return replace(line, neurons=num_classes)
        return replace(line, neurons=config.fc_width, dropout=config.dropout)
    kernels = config.kernels_by_name[line.name]
    line = replace(
        line,
        kernels=kernels // 2 if line.name in config.half_kernels else kernels,
        reads_both=line.name in config.cross_talk,
        norm=line.norm and config.response_norm,
        pool=config.pool_size if line.pool else 0,
    )
    if line.name == "conv1":
        late = config.conv1_relu == "after_pool"
        return replace(
            line, size=config.conv1_size, stride=config.conv1_stride, activation_last=late
        )
    if line.name == "conv2":
        return replace(line, same_map_norm=config.same_map_norm)
    return line


def _without(name: str, table: list[Layer]) -> list[Layer]:
    """The table without a layer; the layer before it takes over its pooling."""
    place = next(place for place, line in enumerate(table) if line.name == name)
    left_out, before = table[place], table[place - 1]
    if isinstance(left_out, Conv) and isinstance(before, Conv) and left_out.pool:
        if before.pool:
            raise ValueError(
                "model.leave_out leaves no convolution between two pooling layers; keep one of "
                "conv3, conv4, conv5"
            )
        before = replace(before, pool=left_out.pool)
    return [*table[: place - 1], before, *table[place + 1 :]]


def _side(line: Conv, side: int) -> int:
    """The side of the maps that come out: convolution rounds up (2012 code), pooling down."""
    side = -(-(side + 2 * line.padding - line.size) // line.stride) + 1
    return (side - line.pool) // 2 + 1 if line.pool else side
