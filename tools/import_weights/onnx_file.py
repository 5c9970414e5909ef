"""The ONNX model zoo's bvlcalexnet (needs onnx).

The zoo made it of Caffe's AlexNet by Caffe2 (vision/classification/alexnet/README.md), which
changes neither BGR nor axes. Its graph says crops of 224 pixels and pads the last pooling at its
end. With Caffe's 227, the same graph is Caffe's network, and no window reaches that padding.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_dali.tools.import_weights import form
from alexnet_dali.tools.import_weights.form import LEARNT, Node, Norm, Step
from alexnet_dali.tools.import_weights.published import Published

_PASS_ON = {"Dropout", "Flatten", "Identity", "Reshape", "Softmax"}
_CONSTANTS = {"Constant", "ConstantOfShape"}


def read(path: Path) -> Published:
    """The network of an ONNX file; ValueError where its graph is no AlexNet of Caffe's."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # onnx and protobuf raise many kinds
        raise ValueError(f"it is no ONNX file, or is cut short ({error})") from error
    nodes = [node for node in graph.node if node.op_type not in _CONSTANTS]
    form.check(form.in_line(_node(node) for node in nodes))
    learnt = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    norms = [_norm(_options(node)) for node in nodes if node.op_type == "LRN"]
    weights: dict[str, NDArray] = {}
    for name, node in zip(LEARNT, learnt, strict=True):
        weights |= _weights(name, node, graph)
    weights["conv1.weight"] = weights["conv1.weight"][:, ::-1]
    remark = "its graph says crops of 224 pixels; they are taken as 227, as Caffe trained it"
    side = graph.input[0].type.tensor_type.shape.dim[-1].dim_value if graph.input else 0
    return Published(weights, form.same_norm(norms), remarks=() if side == form.CROP else (remark,))


def _node(node: Any) -> Node:
    return Node(next(iter(node.input), ""), node.output, _step(node))


def _options(node: Any) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _step(node: Any) -> Step | None:
    kind, options, name = node.op_type, _options(node), node.name or node.output[0]
    if kind in _PASS_ON:
        return None
    if kind in ("Relu", "LRN"):
        return Step({"Relu": "relu", "LRN": "norm"}[kind], name=name)
    strides, pads = options.get("strides", [1, 1]), options.get("pads", [0, 0, 0, 0])
    plain = options.get("auto_pad", b"NOTSET") == b"NOTSET" and len(set(strides)) == 1
    plain &= set(options.get("dilations", [1, 1])) == {1} and not options.get("ceil_mode", 0)
    if kind == "Conv" and plain and len(set(pads)) == 1:
        return Step("convolution", strides[0], pads[0], name=name)
    if kind == "MaxPool" and plain and pads in ([0, 0, 0, 0], [0, 0, 1, 1]):
        sizes = set(options["kernel_shape"])
        return Step("max pooling", strides[0], 0, sizes.pop() if len(sizes) == 1 else 0, name)
    scales = {options.get("alpha", 1.0), options.get("beta", 1.0)}
    if kind == "Gemm" and scales == {1.0} and not options.get("transA", 0):
        return Step("fully connected", name=name)
    return Step(f"a node of type {kind}, or one with other options", name=name)


def _norm(options: dict[str, Any]) -> Norm:
    """ONNX divides alpha by the size, and calls k bias."""
    size, alpha = options["size"], options.get("alpha", 1e-4)
    return Norm(size, alpha / size, options.get("beta", 0.75), options.get("bias", 1.0))


def _weights(name: str, node: Any, graph: Any) -> dict[str, NDArray]:
    weight, bias = (_array(one, graph) for one in (*node.input, "", "")[1:3])
    if node.op_type == "Gemm" and not _options(node).get("transB", 0):
        weight = weight.T
    return {f"{name}.weight": weight, f"{name}.bias": bias.reshape(-1)}


def _array(name: str, graph: Any) -> NDArray:
    """The numbers under a name: stored, or one number for a whole shape."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if name in stored and not stored[name].external_data:
        return onnx.numpy_helper.to_array(stored[name])
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and name in node.output:
            shape = onnx.numpy_helper.to_array(stored[node.input[0]])
            number = onnx.numpy_helper.to_array(_options(node)["value"])
            return np.full(shape, number)
    raise ValueError(f"its weights {name or '(biases)'} are not in the file; expected them there")
