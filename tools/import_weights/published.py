"""A network of Caffe's form, as a file has it, and the same network as this project computes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.config import check as check_model
from alexnet_dali.model.layers import Conv, layers, shapes
from alexnet_dali.model.local_response_norm import K
from alexnet_dali.tools.import_weights.form import CROP, LEARNT, Norm
from alexnet_dali.train.config import Config, DataConfig

CAFFES_NORM = Norm(size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)
"""Of Caffe's AlexNet, for files that do not say. Caffe divides alpha by the size."""

CAFFES_MEAN = (122.6789143406786, 116.66876761696767, 104.0069879317889)
"""Red, green and blue over ImageNet's training images, as Caffe's
examples/00-classification.ipynb prints them."""


@dataclass(frozen=True)
class Published:
    """A network of Caffe's form: conv1 reads 227 pixels, hidden neurons go on unscaled when tested.

    `weights`: conv1.weight [maps, 3, 11, 11] in RGB to fc8.bias [classes]. Grouped convolutions
    have the maps of the first column first; fc6 reads maps, rows, columns. `mean` is [3], or
    [side, side, 3], in RGB. What the file does not hold is None or empty.
    """

    weights: Mapping[str, NDArray]
    norm: Norm = CAFFES_NORM
    mean: NDArray[np.float64] | None = None
    classes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """A network as this project computes it: a run's recipe, and the whole network's weights.

    `mean`, `classes` and `names` are as in Published.
    """

    config: Config
    weights: Mapping[str, NDArray]
    mean: NDArray[np.float64] | None
    classes: list[str]
    names: list[str]
    remarks: tuple[str, ...] = ()


def as_ours(found: Published) -> Imported:
    """The same function of the same crops, but for maps at the columns' border.

    Its norm reaches across that border, ours does not. ValueError where the weights are of another
    network.
    """
    config = Config(
        data=DataConfig(resize=256, crop=CROP, lighting_std=0), model=_model(found.weights)
    )
    check_weights(found.weights, config)
    norm = found.norm
    # Our k is 2: x / (2 + a s)^0.75 is x / (k + alpha s)^0.75, times (k / 2)^0.75, where a is
    # alpha times 2 / k. Max pooling keeps the factor, and the next convolution takes it back.
    alpha, factor = norm.alpha * K / norm.k, (K / norm.k) ** norm.beta
    config = replace(config, model=replace(config.model, norm_alpha=_short(alpha)))
    # Hidden neurons go on at the strength that dropout left them: the next layer makes up for it.
    kept = 1 - config.model.dropout
    factors = {"conv2": factor, "conv3": factor, "fc7": 1 / kept, "fc8": 1 / kept}
    weights = dict(found.weights)
    for name, number in factors.items():
        own = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = own.astype(np.promote_types(own.dtype, np.float32)) * number
    return Imported(config, weights, found.mean, found.classes, found.names, found.remarks)


def check_weights(weights: Mapping[str, NDArray], config: Config) -> None:
    """ValueError where they are not the floating-point weights of the network in `config`."""
    model = config.model
    num_classes = len(weights["fc8.bias"])
    table = layers(model, num_classes)
    sizes = shapes(table, model.columns, config.data.crop)
    expected: dict[str, list[int]] = {}
    for layer in table:
        shape = sizes[layer.name]
        rows = num_classes if layer.name == "fc8" else model.columns * shape.out_channels
        window = [layer.size] * 2 if isinstance(layer, Conv) else []
        expected[f"{layer.name}.weight"] = [rows, shape.in_channels, *window]
        expected[f"{layer.name}.bias"] = [rows]
    for name in sorted(expected.keys() | weights.keys()):
        found = list(weights[name].shape) if name in weights else None
        if found != expected.get(name):
            raise ValueError(
                f"it is another network than the paper's AlexNet: {name} is {found}; expected "
                f"{expected.get(name)}, as two columns of these widths have"
            )
        if weights[name].dtype.kind != "f":
            raise ValueError(
                f"{name} holds {weights[name].dtype} numbers, which may be quantised; expected "
                "floating-point ones"
            )


def _model(weights: Mapping[str, NDArray]) -> ModelConfig:
    """The paper's network with as many kernels and neurons as there are."""
    missing = [name for name in LEARNT if f"{name}.weight" not in weights]
    if missing:
        raise ValueError(f"it has no weights of {', '.join(missing)}; expected AlexNet's layers")
    rows = {name: len(weights[f"{name}.weight"]) for name in LEARNT}
    kernels = tuple(rows[name] for name in LEARNT[:5])
    model = ModelConfig(kernels=kernels, fc_width=rows["fc6"])
    check_model(model)
    return model


def _short(number: float) -> float:
    """Without the digits that float32 alone has given it: 1e-4 is 9.99999975e-05 there."""
    return float(f"{number:.7g}")
