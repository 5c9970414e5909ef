"""MatConvNet's imagenet-caffe-alex.mat.

Its importer of Caffe's networks (utils/import-caffe.py) turned weights into rows, columns, inputs,
outputs, and the first layer and the mean image into RGB. Fully connected layers are convolutions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from alexnet_dali.pipeline.system.faults import the_disks_own
from alexnet_dali.tools.import_weights import form
from alexnet_dali.tools.import_weights.form import CROP, LEARNT, Norm, Step
from alexnet_dali.tools.import_weights.published import Published

_PASS_ON = {"dropout", "softmax", "softmaxloss"}


def read(path: Path) -> Published:
    """The network of a .mat file; ValueError where it is no AlexNet of Caffe's."""
    net = _loaded(path)
    layers = [layer for layer in net["layers"] if layer.get("type") not in _PASS_ON]
    form.check(_steps(layers))
    learnt = [layer for layer in layers if layer["type"] == "conv"]
    norms = [_norm(layer) for layer in layers if layer["type"] in ("normalize", "lrn")]
    weights: dict[str, NDArray] = {}
    for name, layer in zip(LEARNT, learnt, strict=True):
        weights |= _weights(name, layer)
    meta = net.get("meta", net)  # since 2015 they are in `meta`
    classes = meta.get("classes")
    labels = classes if isinstance(classes, dict) else {}
    folders, names = (_words(labels.get(key, ())) for key in ("name", "description"))
    return Published(
        weights, form.same_norm(norms), _mean(meta.get("normalization")), folders, names or folders
    )


def _loaded(path: Path) -> dict[str, Any]:
    try:
        net = loadmat(path, simplify_cells=True)
    except NotImplementedError as error:
        raise ValueError(
            "it is a .mat file of version 7.3; expected one of version 5 to 7: load it in MATLAB "
            "and save it with -v7"
        ) from error
    except Exception as error:  # scipy and zlib raise many kinds
        if the_disks_own(error):
            raise
        raise ValueError(f"it is no .mat file, or is cut short ({error!r})") from error
    layers = net.get("layers")
    if not isinstance(layers, list | np.ndarray) or not all(
        isinstance(one, dict) for one in layers
    ):
        raise ValueError("it holds no `layers`; expected a network of MatConvNet's SimpleNN")
    return net


def _steps(layers: Sequence[dict[str, Any]]) -> list[Step]:
    steps: list[Step] = []
    for layer in layers:
        # They are convolutions over all that pooling left, and then over single pixels.
        hidden = sum(step.kind in ("convolution", "fully connected") for step in steps) >= 5
        steps.append(_step(layer, "fully connected" if hidden else "convolution"))
    return steps


def _step(layer: dict[str, Any], of_conv: str) -> Step:
    kind, name = layer.get("type"), str(layer.get("name", ""))
    if kind in ("normalize", "lrn"):
        return Step("norm", name=name)
    if kind == "relu" and not layer.get("leak"):
        return Step("relu", name=name)
    stride, padding = _pixels(layer, "stride", 1), _pixels(layer, "pad", 0)
    if kind == "conv" and len(stride) == len(padding) == len(_pixels(layer, "dilate", 1) | {1}):
        return Step(of_conv, stride.pop(), padding.pop(), name=name)
    if kind == "pool" and layer.get("method", "max") == "max":
        size = _pixels(layer, "pool", 0)
        if len(size) == len(stride) == 1:
            return Step("max pooling", stride.pop(), max(padding), size.pop(), name)
    return Step(f"a layer of type {kind}, or one with other options", name=name)


def _pixels(layer: dict[str, Any], option: str, default: int) -> set[int]:
    return set(np.ravel(layer.get(option, default)).astype(int).tolist())


def _norm(layer: dict[str, Any]) -> Norm:
    """MatConvNet does not divide alpha; the defaults are vl_simplenn_tidy's."""
    size, k, alpha, beta = np.ravel(layer.get("param", [5, 1, 1e-4 / 5, 0.75])).tolist()
    return Norm(int(size), alpha, beta, k)


def _weights(name: str, layer: dict[str, Any]) -> dict[str, NDArray]:
    pair = layer.get("weights", (layer.get("filters"), layer.get("biases")))  # until 2015 apart
    if len(pair) != 2 or not all(isinstance(one, np.ndarray) for one in pair):
        raise ValueError(f"{name} holds no weights and biases")
    weight, bias = pair
    if weight.ndim not in (2, 4):  # scipy drops sides of one pixel
        raise ValueError(f"the weights of {name} are {list(weight.shape)}; expected AlexNet's")
    weight = weight.T if weight.ndim == 2 else weight.transpose(3, 2, 0, 1)
    if name.startswith("fc"):
        weight = weight.reshape(len(weight), -1)
    return {f"{name}.weight": weight, f"{name}.bias": bias.reshape(-1)}


def _mean(normalization: Any) -> NDArray[np.float64] | None:
    """[3] or [227, 227, 3] in RGB; None where the file has none."""
    about = normalization if isinstance(normalization, dict) else {}
    image = np.asarray(about.get("averageImage", ()), np.float64)
    if image.shape in ((0,), (2,)):  # two zeros: the importer was given none
        return None
    if image.shape not in ((3,), (CROP, CROP, 3)):
        raise ValueError(
            f"its averageImage is {list(image.shape)}; expected a colour, or [{CROP}, {CROP}, 3]"
        )
    return image


def _words(cells: Any) -> list[str]:
    return [str(word) for word in np.ravel(np.asarray(cells, object))]
