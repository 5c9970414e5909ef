"""What the network is made of: the paper's sizes, and the variants that it compares them with."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
FULLY_CONNECTED = ("fc6", "fc7", "fc8")
NORMALISED = ("conv1", "conv2")
POOLED = ("conv1", "conv2", "conv5")
"""Convolutions that response norm and pooling follow (paper, section 3.5)."""

ConvolutionName = Literal["conv2", "conv3", "conv4", "conv5", "conv6"]


@dataclass(frozen=True)
class ModelConfig:
    """The network; the defaults are the paper's (section 3).

    Args:
        columns: 2, or 1 for one column that holds all kernels.
        kernels: of conv1, conv2, ..., both columns together; a sixth number adds a convolution over the last pooling
            layer (section 6).
        leave_out: of conv3 to fc7, those that are not there; pooling stays (sections 3.5 and 7; figure 1).
        cross_talk: convolutions that read both columns' maps, as fully connected layers always do (section 3.5).
        conv1_size: side of the first layer's kernels in pixels.
        conv1_stride: stride of the first layer in pixels.
        pool_size: side of the pooling windows, which are 2 apart: 3 overlap, 2 do not (section 3.4).
        activation: of every hidden neuron: relu, or tanh (section 3.1).
        response_norm: normalise the responses of conv1 and conv2 (section 3.3).
        norm_alpha: alpha of the response norm, for each squared response (2012 code: 2e-5).
        conv1_relu: where conv1's activation goes: before response norm, or after pooling (2012 code).
        same_map_norm: normalise conv2's responses once more, by their neighbours in the same map (2012 code).
        fc_width: neurons of each hidden fully connected layer, both columns together.
        init_std: standard deviation of the initial weights, one number a layer, conv1 to fc8 (section 5).
        init_bias: initial biases, one number a layer; 1 gives ReLUs positive inputs to begin with (section 5).
        dropout: probability with which a hidden neuron is left out in training (section 4.2).
    """

    columns: Literal[1, 2] = 2
    kernels: tuple[int, ...] = (96, 256, 384, 384, 256)
    leave_out: tuple[Literal["conv3", "conv4", "conv5", "fc6", "fc7"], ...] = ()
    cross_talk: tuple[ConvolutionName, ...] = ("conv3",)
    conv1_size: int = 11
    conv1_stride: int = 4
    pool_size: Literal[2, 3] = 3
    activation: Literal["relu", "tanh"] = "relu"
    response_norm: bool = True
    norm_alpha: float = 1e-4
    conv1_relu: Literal["before_norm", "after_pool"] = "before_norm"
    same_map_norm: bool = False
    fc_width: int = 4096
    init_std: tuple[float, ...] = (0.01,) * 8
    init_bias: tuple[float, ...] = (0, 1, 0, 1, 1, 1, 1, 0)
    dropout: float = 0.5

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers, in order, those left out included: `init_std` and `init_bias` have a number for each."""
        return (*CONVOLUTIONS[: len(self.kernels)], *FULLY_CONNECTED)


class Stage(NamedTuple):
    """A convolution and what follows it, in one column."""

    reads: int  # maps that its kernels see: the column's own or, with cross talk, all
    kernels: int  # 0 where the convolution is left out and only what follows it is there
    maps: int  # that come out
    side: int  # of these maps, in pixels


def stages(config: ModelConfig, crop: int) -> dict[str, Stage]:
    """Every convolution's stage, by name, for images of `crop` pixels; ValueError where sizes do not fit."""
    _check(config)
    maps = 3
    side, _ = conv1_geometry(config, crop)
    found: dict[str, Stage] = {}
    for name, kernels in zip(CONVOLUTIONS, config.kernels):
        reads = maps * (config.columns if name in config.cross_talk else 1)
        own = 0 if name in config.leave_out else kernels // config.columns
        maps = own or maps
        if name in POOLED:
            side = (side - config.pool_size) // 2 + 1
        found[name] = Stage(reads, own, maps, side)
    if crop < config.conv1_size or side < 1:
        raise ValueError(
            f"data.crop is {crop}: too small for conv1 of size {config.conv1_size}, stride {config.conv1_stride} and "
            f"three pooling layers over windows of {config.pool_size}; take larger crops or a smaller stride"
        )
    return found


def conv1_geometry(config: ModelConfig, crop: int) -> tuple[int, int]:
    """Side of conv1's output, rounded up, and the zero rows that takes, all at the bottom and right (2012 code)."""
    pad = -(crop - config.conv1_size) % config.conv1_stride
    return (crop + pad - config.conv1_size) // config.conv1_stride + 1, pad


def stretches(config: ModelConfig) -> list[tuple[str, ...]]:
    """The convolutions, cut where columns exchange their maps: (conv1, conv2) and (conv3, conv4, conv5)."""
    cut: list[tuple[str, ...]] = [()]
    for name in CONVOLUTIONS[: len(config.kernels)]:
        if name in config.cross_talk and config.columns > 1:
            cut.append(())
        cut[-1] = (*cut[-1], name)
    return cut


def _check(config: ModelConfig) -> None:
    if len(config.kernels) not in (5, 6):
        raise ValueError(f"model.kernels is {list(config.kernels)}; expected five numbers, or six")
    if not len(config.init_std) == len(config.init_bias) == len(config.layers):
        raise ValueError(
            f"model: init_std has {len(config.init_std)} numbers and init_bias {len(config.init_bias)}; expected one "
            f"for each of {', '.join(config.layers)}"
        )
    if min(config.conv1_size, config.conv1_stride) < 1 or not 0 <= config.dropout < 1:
        raise ValueError(
            f"model: found conv1_size {config.conv1_size}, conv1_stride {config.conv1_stride}, dropout "
            f"{config.dropout:g}; expected sizes of 1 or more, and a dropout of at least 0 and less than 1"
        )
    if min(*config.init_std, config.norm_alpha) < 0:
        raise ValueError(
            f"model: found init_std {list(config.init_std)}, norm_alpha {config.norm_alpha:g}; expected none below 0"
        )
    uneven = [width for width in (*config.kernels, config.fc_width) if width % config.columns or width < config.columns]
    if uneven:
        expected = "even numbers, to be shared by two columns" if config.columns == 2 else "1 or more"
        raise ValueError(f"model: found widths {uneven} in kernels and fc_width; expected {expected}")
    absent = [name for name in config.cross_talk if name not in config.layers or name in config.leave_out]
    if absent:
        raise ValueError(f"model.cross_talk names {', '.join(absent)}, which is not there; name a layer that is")
