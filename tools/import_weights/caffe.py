"""Caffe's files: networks (.caffemodel), and mean images (.binaryproto).

Caffe reads images by OpenCV, in BGR (src/caffe/util/io.cpp); its blobs are [outputs, inputs, rows,
columns], and fully connected layers read maps, rows, columns (include/caffe/blob.hpp).
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from alexnet_dali.tools.import_weights import form
from alexnet_dali.tools.import_weights.caffe_messages import BlobProto, NetParameter
from alexnet_dali.tools.import_weights.form import LEARNT, Node, Norm, Step
from alexnet_dali.tools.import_weights.published import Published

_V1 = {
    **{1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 12: "ImageData"},
    **{14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"},
    **{21: "SoftmaxWithLoss", 22: "Split", 24: "WindowData", 29: "MemoryData", 36: "Silence"},
}
"""Layer types of 2014 by their numbers, under today's names (V1LayerParameter)."""

_PASS_ON = {"Dropout", "Flatten", "Softmax", "Split"}
_OUTSIDE = {
    *("Accuracy", "Data", "ImageData", "Input", "MemoryData", "Silence", "SoftmaxWithLoss"),
    *("WindowData",),
}
"""They feed a network or judge it."""


def read(path: Path) -> Published:
    """The network of a .caffemodel; ValueError where it is no AlexNet of Caffe's."""
    net = _parsed(path, NetParameter())
    layers = list(net.layer) or list(net.layers)
    if layers and not any(layer.name or layer.type for layer in layers):
        raise ValueError(
            "it was written by a Caffe of before 2014; expected a later one's file, as Caffe's "
            "upgrade_net_proto_binary makes it"
        )
    nodes = [_node(layer) for layer in layers if _type(layer) not in _OUTSIDE]
    form.check(form.in_line(nodes))
    learnt = [layer for layer in layers if _type(layer) in ("Convolution", "InnerProduct")]
    norms = [_norm(layer.lrn_param) for layer in layers if _type(layer) == "LRN"]
    weights: dict[str, NDArray] = {}
    for name, layer in zip(LEARNT, learnt, strict=True):
        weights |= _weights(name, layer)
    weights["conv1.weight"] = weights["conv1.weight"][:, ::-1]
    return Published(weights, form.same_norm(norms))


def read_mean(path: Path) -> NDArray[np.float64]:
    """The mean image [256, 256, 3], in RGB, of a .binaryproto or .npy of Caffe's; ValueError."""
    if path.suffix == ".npy":
        image = np.load(path, allow_pickle=False)
    else:
        image = _array(_parsed(path, BlobProto()), "the mean")
    image = image.reshape(image.shape[-3:])
    if image.shape != (3, 256, 256) or not np.isfinite(image).all():
        raise ValueError(
            f"it holds numbers {list(image.shape)}; expected finite ones [3, 256, 256], as Caffe's "
            "imagenet_mean.binaryproto has"
        )
    return image[::-1].transpose(1, 2, 0).astype(np.float64)


def _parsed(path: Path, message: Any) -> Any:
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"it is no file of Caffe's, or is cut short ({error})") from error
    return message


def _type(layer: Any) -> str:
    return layer.type if isinstance(layer.type, str) else _V1.get(layer.type, f"{layer.type}")


def _node(layer: Any) -> Node:
    return Node(next(iter(layer.bottom), ""), [*layer.top] or [layer.name], _step(layer))


def _step(layer: Any) -> Step | None:
    kind, name = _type(layer), layer.name
    if kind in _PASS_ON:
        return None
    if kind == "ReLU" and not layer.relu_param.negative_slope:
        return Step("relu", name=name)
    if kind == "InnerProduct":
        return Step("fully connected", name=name)
    if kind == "LRN" and not layer.lrn_param.norm_region:
        return Step("norm", name=name)
    if kind == "Convolution":
        about = layer.convolution_param
        stride = _only([*about.stride, about.stride_h, about.stride_w], 1)
        padding = _only([*about.pad, about.pad_h, about.pad_w], 0)
        if stride is not None and padding is not None and _only([*about.dilation], 1) == 1:
            return Step("convolution", stride, padding, name=name)
    if kind == "Pooling" and not layer.pooling_param.pool:
        about = layer.pooling_param
        return Step("max pooling", about.stride, about.pad, about.kernel_size, name)
    return Step(f"a layer of type {kind}, or one with unknown options", name=name)


def _only(pixels: list[int], default: int) -> int | None:
    """The one number that is set, for both directions; None where there are several."""
    found = {number for number in pixels if number}
    return found.pop() if len(found) == 1 else default if not found else None


def _norm(about: Any) -> Norm:
    return Norm(about.local_size, about.alpha / about.local_size, about.beta, about.k)


def _weights(name: str, layer: Any) -> dict[str, NDArray]:
    if len(layer.blobs) != 2:
        raise ValueError(
            f"{layer.name} holds {len(layer.blobs)} arrays; expected weights and biases (a file "
            "of a network without them, or cut short?)"
        )
    weight, bias = (_array(blob, layer.name) for blob in layer.blobs)
    if name.startswith("fc"):  # before 2014, their blobs were [1, 1, outputs, inputs]
        weight = weight.reshape(weight.shape[-2:])
    return {f"{name}.weight": weight, f"{name}.bias": bias.reshape(-1)}


def _array(blob: Any, name: str) -> NDArray:
    """The numbers of a blob in its shape, whichever of the two ways it is given."""
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    doubles = b"".join(blob.double_data)
    data = doubles or b"".join(blob.data)
    numbers = np.frombuffer(data, "<f8" if doubles else "<f4")
    if np.prod(shape) != len(numbers):
        raise ValueError(
            f"{name} holds {len(numbers)} numbers; expected as many as its shape {shape} has"
        )
    return numbers.reshape(shape)
