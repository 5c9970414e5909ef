"""What the network is made of: the sizes in the paper, and the variants that it compares."""

from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@dataclass(frozen=True)
class PerLayer:
    """A number for each layer, by the layer's name.

    Args:
        default: for every layer that has no number of its own.
        conv1: and so on.
    """

    default: float
    conv1: float | None = None
    conv2: float | None = None
    conv3: float | None = None
    conv4: float | None = None
    conv5: float | None = None
    conv6: float | None = None
    fc6: float | None = None
    fc7: float | None = None
    fc8: float | None = None

    def of(self, name: str) -> float:
        """The number of the layer `name`."""
        own = getattr(self, name)
        return self.default if own is None else own


@dataclass(frozen=True)
class ModelConfig:
    """The network; the defaults are the paper's (section 3).

    Args:
        columns: 2, or 1 for one column that holds all kernels.
        kernels: of conv1 to conv5, both columns together.
        half_kernels: convolutions with half of their kernels (section 3.2, the network on one GPU).
        sixth_convolution: one more over the last pooling layer, like conv5, reading both columns
            (section 6).
        skip_layers: of conv3 to fc7, those that are not there; pooling stays (sections 3.5 and 7;
            figure 1).
        cross_talk: convolutions that read both columns' maps, as fully connected layers always do
            (section 3.5).
        conv1_size: side of the first layer's kernels in pixels.
        conv1_stride: stride of the first layer in pixels.
        pool_size: side of the pooling windows, which are 2 apart: 3 overlap, 2 do not (section
            3.4).
        activation: of every hidden neuron: relu, or tanh (section 3.1).
        local_response_norm: normalise the responses of conv1 and conv2 (section 3.3).
        norm_alpha: alpha of the response norm, for each squared response (2012 code: 2e-5).
        conv1_relu: where conv1's activation goes: before response norm, or after pooling (2012
            code).
        within_channel_norm: normalise conv2's responses once more, by their neighbours in the same
            map (2012 code).
        fc_width: neurons of each hidden fully connected layer, both columns together.
        init_std: standard deviation of the initial weights (section 5).
        init_bias: initial biases; 1 gives ReLUs positive inputs to begin with (section 5).
        dropout: probability with which a hidden neuron is left out in training (section 4.2).
    """

    columns: Literal[1, 2] = 2
    kernels: tuple[int, ...] = (96, 256, 384, 384, 256)
    half_kernels: tuple[Literal["conv1", "conv2", "conv3", "conv4", "conv5"], ...] = ()
    sixth_convolution: bool = False
    skip_layers: tuple[Literal["conv3", "conv4", "conv5", "fc6", "fc7"], ...] = ()
    cross_talk: tuple[Literal["conv2", "conv3", "conv4", "conv5"], ...] = ("conv3",)
    conv1_size: int = 11
    conv1_stride: int = 4
    pool_size: Literal[2, 3] = 3
    activation: Literal["relu", "tanh"] = "relu"
    local_response_norm: bool = True
    norm_alpha: float = 1e-4
    conv1_relu: Literal["before_norm", "after_pool"] = "before_norm"
    within_channel_norm: bool = False
    fc_width: int = 4096
    init_std: PerLayer = field(default_factory=lambda: PerLayer(0.01))
    init_bias: PerLayer = field(default_factory=lambda: PerLayer(1, conv1=0, conv3=0, fc8=0))
    dropout: float = 0.5

    @property
    def kernels_by_name(self) -> dict[str, int]:
        """How many kernels each convolution has, both columns together, before any are halved."""
        return dict(zip(CONVOLUTIONS, self.kernels, strict=True))


def check(config: ModelConfig) -> None:
    """ValueError where the network can't be built."""
    _check_choices(config)
    if len(config.kernels) != len(CONVOLUTIONS):
        raise ValueError(
            f"model.kernels is {list(config.kernels)}; expected five numbers, for conv1 to conv5 "
            "(a sixth layer is model.sixth_convolution: true)"
        )
    if min(config.conv1_size, config.conv1_stride) < 1 or not 0 <= config.dropout < 1:
        raise ValueError(
            f"model: found conv1_size {config.conv1_size}, conv1_stride {config.conv1_stride}, "
            f"dropout {config.dropout:g}; expected sizes of 1 or more, and a dropout of at least "
            "0 and less than 1"
        )
    rates = {**vars(config.init_std), "norm_alpha": config.norm_alpha}
    negative = [f"{name} {value:g}" for name, value in rates.items() if (value or 0) < 0]
    if negative:
        raise ValueError(
            f"model: found {', '.join(negative)} in init_std and norm_alpha; expected none below 0"
        )
    _check_widths(config)
    absent = sorted(set(config.cross_talk) & set(config.skip_layers))
    if absent:
        raise ValueError(
            f"model.cross_talk names {', '.join(absent)}, which model.skip_layers leaves out; name "
            "a layer that is there"
        )


def _check_choices(config: ModelConfig) -> None:
    """Python lets any value pass for a Literal."""
    for name, kind in get_type_hints(ModelConfig).items():
        several = get_origin(kind) is tuple
        inner = get_args(kind)[0] if several else kind
        if get_origin(inner) is not Literal:
            continue
        for found in getattr(config, name) if several else [getattr(config, name)]:
            if found not in get_args(inner):
                expected = ", ".join(map(str, get_args(inner)))
                raise ValueError(f"model.{name}: found {found!r}; expected one of {expected}")


def _check_widths(config: ModelConfig) -> None:
    """Columns must share kernels and neurons evenly; half of the kernels must be a whole number."""
    widths = {**config.kernels_by_name, "fc_width": config.fc_width}
    for name, width in widths.items():
        share = config.columns * (2 if name in config.half_kernels else 1)
        if width < share or width % share:
            raise ValueError(
                f"model: found {width} kernels or neurons in {name}; expected a multiple of "
                f"{share}, to be shared by "
                f"{config.columns} columns" + (" and halved" if name in config.half_kernels else "")
            )
