"""AlexNets as others publish them: the network in plain torch, and their files, written by hand.

Nothing here is of the code that reads them: weights are `p`, in Caffe's own form: conv1.weight
[maps, 3 (blue, green, red), rows, columns], grouped convolutions with their own inputs alone, fc6
reading maps, rows, columns.
"""

import pickle
import struct

import numpy as np
import onnx
import scipy.io
import torch
from numpy.lib import format as npy
from onnx import helper, numpy_helper
from torch.nn import functional as F

TINY = (8, 12, 16, 16, 12)
NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
GROUPED = ("conv2", "conv4", "conv5")


def weights(kernels=TINY, width=24, classes=7, dtype=np.float32, seed=0):
    """Random ones, large enough for the norms to matter, with smooth first kernels."""
    rng = np.random.default_rng(seed)
    one, two, three, four, five = kernels
    shapes = {
        "conv1": (one, 3, 11, 11),
        "conv2": (two, one // 2, 5, 5),
        "conv3": (three, two, 3, 3),
        "conv4": (four, three // 2, 3, 3),
        "conv5": (five, four // 2, 3, 3),
        "fc6": (width, five * 36),
        "fc7": (width, width),
        "fc8": (classes, width),
    }
    found = {}
    for name, shape in shapes.items():
        scale = 4 if name == "conv1" else 0.004 if name == "fc8" else 1.6
        own = scale * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        if name == "conv1":  # each number is the mean of four draws, so neighbours are alike
            own = (own + np.roll(own, 1, 2) + np.roll(own, 1, 3) + np.roll(own, (1, 1), (2, 3))) / 2
        found[f"{name}.weight"] = own.astype(dtype)
        found[f"{name}.bias"] = (0.1 * rng.standard_normal(shape[0])).astype(dtype)
    return found


def norm(x, across, k=1.0, alpha=1e-4, size=5, beta=0.75):
    """Caffe's: alpha is divided by the size; where not `across`, each half of the maps apart."""
    if not across:
        return torch.cat([norm(half, True, k, alpha, size, beta) for half in x.chunk(2, 1)], 1)
    total = torch.zeros_like(x)
    for map_ in range(x.shape[1]):
        total[:, map_] = x[:, max(map_ - size // 2, 0) : map_ + size // 2 + 1].square().sum(1)
    return x / (k + alpha / size * total) ** beta


def maps(p, rgb, across, **constants):
    """Crops [N, 3, 227, 227] less the mean to what conv1 and its norm make of them."""
    own = {name: torch.from_numpy(value).double() for name, value in p.items()}
    bgr = rgb.double().flip(1)
    x = F.conv2d(bgr, own["conv1.weight"], own["conv1.bias"], stride=4).relu()
    return norm(x, across, **constants)


def probabilities(p, rgb, across=False, **constants):
    """Crops [N, 3, 227, 227] less the mean to [N, classes], in float64."""
    own = {name: torch.from_numpy(value).double() for name, value in p.items()}

    def conv(x, name, padding):
        groups = 2 if name in GROUPED else 1
        weight, bias = own[f"{name}.weight"], own[f"{name}.bias"]
        return F.conv2d(x, weight, bias, padding=padding, groups=groups).relu()

    x = F.max_pool2d(maps(p, rgb, across, **constants), 3, 2)
    x = F.max_pool2d(norm(conv(x, "conv2", 2), across, **constants), 3, 2)
    x = conv(conv(conv(x, "conv3", 1), "conv4", 1), "conv5", 1)
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        x = F.linear(x, own[f"{name}.weight"], own[f"{name}.bias"]).relu()
    return F.linear(x, own["fc8.weight"], own["fc8.bias"]).softmax(1)


def field(number, value):
    """A field of a protobuf message: a whole number, a float, or bytes of whatever kind."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number):
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    more, low = number >> 7, number & 127
    return bytes([low | 128]) + varint(more) if more else bytes([low])


def blob(array, shaped=True, double=False):
    """Caffe's BlobProto of an array; without `shaped`, in the four sides of 2013."""
    numbers = array.astype("<f8" if double else "<f4").tobytes()
    data = field(8 if double else 5, numbers)
    if shaped:
        return data + field(7, field(1, b"".join(map(varint, array.shape))))
    sides = (1,) * (4 - array.ndim) + array.shape
    return data + b"".join(field(number, side) for number, side in enumerate(sides, 1))


CHAIN = [
    *(("conv1", "Convolution"), ("relu1", "ReLU"), ("norm1", "LRN"), ("pool1", "Pooling")),
    *(("conv2", "Convolution"), ("relu2", "ReLU"), ("norm2", "LRN"), ("pool2", "Pooling")),
    *(("conv3", "Convolution"), ("relu3", "ReLU"), ("conv4", "Convolution"), ("relu4", "ReLU")),
    *(("conv5", "Convolution"), ("relu5", "ReLU"), ("pool5", "Pooling")),
    *(("fc6", "InnerProduct"), ("relu6", "ReLU"), ("drop6", "Dropout")),
    *(("fc7", "InnerProduct"), ("relu7", "ReLU"), ("drop7", "Dropout")),
    *(("fc8", "InnerProduct"), ("loss", "SoftmaxWithLoss")),
]
"""As models/bvlc_alexnet/train_val.prototxt has it, less data and accuracy."""

CAFFENETS = [CHAIN[place] for place in (0, 1, 3, 2, 4, 5, 7, 6, *range(8, len(CHAIN)))]

OLD_TYPES = {"Convolution": 4, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17}
OLD_TYPES |= {"ReLU": 18, "SoftmaxWithLoss": 21}


def caffemodel(p, old=False, chain=CHAIN, lrn=None, stride=4, **blobs):
    """The bytes of a .caffemodel; `old`: in the form of 2014. Field numbers are caffe.proto's."""
    lrn = field(1, 5) + field(2, 1e-4) + field(3, 0.75) if lrn is None else lrn
    parameters = {"Convolution": 10, "InnerProduct": 17, "LRN": 18, "Pooling": 19} if old else {}
    parameters = parameters or {"Convolution": 106, "InnerProduct": 117, "LRN": 118, "Pooling": 121}
    found, last = field(1, "AlexNet"), "data"
    for name, kind in chain:
        in_place = kind in ("ReLU", "Dropout")
        top = last if in_place else name
        layer = field(4 if old else 1, name)
        layer += field(5, OLD_TYPES[kind]) if old else field(2, kind)
        layer += field(2 if old else 3, last) + field(3 if old else 4, top)
        if f"{name}.weight" in p:
            for part in ("weight", "bias"):
                layer += field(6 if old else 7, blob(p[f"{name}.{part}"], **blobs))
        about = {"LRN": lrn, "Pooling": field(1, 0) + field(2, 3) + field(3, 2)}.get(kind, b"")
        if kind == "Convolution":
            padding = {"conv1": 0, "conv2": 2}.get(name, 1)
            about = (field(3, padding) if padding else b"") + field(5, 2 if name in GROUPED else 1)
            about += field(6, stride) if name == "conv1" else b""
        if kind in parameters:
            layer += field(parameters[kind], about)
        found, last = found + field(2 if old else 100, layer), top
    return found


def onnx_model(p, side=224, transposed=True):
    """As Caffe2's exporter has written the zoo's graph, with stored weights."""
    nodes, last = [], "data_0"

    def add(kind, *inputs, **options):
        nonlocal last
        new = f"r{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *inputs], [new], name=new, **options))
        last = new

    def conv(name, stride, padding):
        options = {"strides": [stride] * 2, "pads": [padding] * 4, "group": 1}
        options |= {"kernel_shape": p[f"{name}.weight"].shape[2:]}
        options |= {"group": 2} if name in GROUPED else {}
        add("Conv", f"{name}.weight", f"{name}.bias", **options)
        add("Relu")

    def pool(end=0):
        add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, end, end])

    for name, padding in (("conv1", 0), ("conv2", 2)):
        conv(name, 4 if name == "conv1" else 1, padding)
        add("LRN", size=5, alpha=1e-4, beta=0.75, bias=1.0)
        pool()
    for name in ("conv3", "conv4", "conv5"):
        conv(name, 1, 1)
    pool(end=1)
    add("Reshape", "shape")
    stored = dict(p) | {"shape": np.array([1, -1])}
    for name in ("fc6", "fc7", "fc8"):
        add("Gemm", f"{name}.weight", f"{name}.bias", transB=int(transposed))
        if not transposed:
            stored[f"{name}.weight"] = stored[f"{name}.weight"].T.copy()
        if name != "fc8":
            add("Relu")
            add("Dropout")
    add("Softmax")
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "alexnet",
        [helper.make_tensor_value_info("data_0", floats, [1, 3, side, side])],
        [helper.make_tensor_value_info(last, floats, [1, len(p["fc8.bias"])])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph)


def mat(p, path, old=False, mean=None, classes=None, order=None, norm=(5, 1, 2e-5, 0.75)):
    """As MatConvNet's importer writes it: RGB, and rows, columns, inputs, outputs."""
    layers = []

    def conv(name, stride, padding, relu=True):
        own = p[f"{name}.weight"]
        if name.startswith("fc"):
            side = 6 if name == "fc6" else 1
            own = own.reshape(len(own), -1, side, side)
        own = own[:, ::-1] if name == "conv1" else own
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = own.transpose(2, 3, 1, 0), p[f"{name}.bias"].reshape(1, -1)
        held = {"filters": pair[0, 0], "biases": pair[0, 1]} if old else {"weights": pair}
        stride, padding = np.full((1, 2), float(stride)), np.full((1, 4), float(padding))
        layers.append({"name": name, "type": "conv", "stride": stride, "pad": padding} | held)
        if relu:
            layers.append({"name": f"relu{name[-1]}", "type": "relu"})

    def pool(name):
        sides = {"pool": np.full((1, 2), 3.0), "stride": np.full((1, 2), 2.0)}
        layers.append({"name": name, "type": "pool", "method": "max", "pad": np.zeros((1, 4))})
        layers[-1] |= sides

    for name, stride, padding in (("conv1", 4, 0), ("conv2", 1, 2)):
        conv(name, stride, padding)
        kind = "normalize" if old else "lrn"
        layers.append({"name": f"norm{name[-1]}", "type": kind, "param": np.array([norm])})
        pool(f"pool{name[-1]}")
    for name in ("conv3", "conv4", "conv5"):
        conv(name, 1, 1)
    pool("pool5")
    for name in ("fc6", "fc7", "fc8"):
        conv(name, 1, 0, relu=name != "fc8")
    layers.append({"name": "prob", "type": "softmax"})
    if order is not None:
        layers = [layers[place] for place in order] + layers[len(order) :]
    meta = {"normalization": {"imageSize": np.array([[227.0, 227, 3]]), "keepAspect": False}}
    meta["normalization"]["averageImage"] = np.zeros((1, 2)) if mean is None else mean
    if classes:
        folders, names = (np.array([words], object) for words in classes)
        meta["classes"] = {"name": folders, "description": names}
    cells = np.empty((1, len(layers)), object)
    cells[0] = layers
    net = {"layers": cells} | (meta if old else {"meta": meta})
    scipy.io.savemat(path, net, do_compression=not old)


def toronto(p):
    """Layers by name, as caffe-tensorflow turns them: rows, columns, inputs, outputs."""
    found = {}
    for name in NAMES:
        own = p[f"{name}.weight"]
        if name == "fc6":
            own = own.reshape(len(own), -1, 6, 6).transpose(2, 3, 1, 0).reshape(-1, len(own))
        else:
            own = own.transpose(2, 3, 1, 0) if own.ndim == 4 else own.T
        found[name] = [np.ascontiguousarray(own), p[f"{name}.bias"]]
    return found


def pickled_npy(content, path, protocol=2, old=True):
    """`content` in an array of one object; `old`: under the names that numpy had before 2.0."""
    array = np.empty((), object)
    array[()] = content
    data = pickle.dumps(array, protocol)
    if old:
        assert protocol == 2  # later ones write the lengths of names before them
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        file.write(data)
