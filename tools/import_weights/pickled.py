"""The University of Toronto's bvlc_alexnet.npy: a pickled dict of names to weights and biases.

Its page (www.cs.toronto.edu/~guerzhoy/tf_alexnet) made it of Caffe's AlexNet by caffe-tensorflow,
whose DataReshaper (kaffe/transformers.py) turns weights into rows, columns, inputs, outputs, and
fc6's inputs into rows, columns, maps. It changes no colours: the page's program swaps red and blue.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from alexnet_dali.pipeline.system.faults import the_disks_own
from alexnet_dali.tools.import_weights.form import LEARNT
from alexnet_dali.tools.import_weights.published import Published

THEANOS = (
    "it holds single arrays, as theano_alexnet's folders do; that network pools before it "
    "normalises (lib/layers.py there), another function than any here: take Caffe's bvlc_alexnet"
)
"""Its weights are a folder of arrays, W_0_65.npy and so on."""

_REMARK = (
    "the file does not say in which order its layers come: it is taken for Caffe's bvlc_alexnet; "
    "CaffeNet, with the same shapes, would answer wrongly"
)


def read(path: Path) -> Published:
    """The network of a .npy file; ValueError where it is no AlexNet, or would run code."""
    layers = _unpickled(path)
    missing = [name for name in LEARNT if name not in layers]
    if missing:
        raise ValueError(
            f"it names {', '.join(map(str, layers)) or 'no layer'}; expected {', '.join(LEARNT)}"
        )
    weights: dict[str, NDArray] = {}
    for name in LEARNT:
        weights |= _weights(name, layers[name])
    maps = len(weights["conv5.bias"])
    fc6 = weights["fc6.weight"]
    if fc6.shape[1] != 36 * maps:
        raise ValueError(f"fc6 reads {fc6.shape[1]} numbers; expected {maps} maps of 6 x 6")
    weights["fc6.weight"] = fc6.reshape(-1, 6, 6, maps).transpose(0, 3, 1, 2).reshape(len(fc6), -1)
    weights["conv1.weight"] = weights["conv1.weight"][:, ::-1]
    return Published(weights, remarks=(_REMARK,))


def _unpickled(path: Path) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
            shape, _, dtype = header(file)
            if not dtype.hasobject:
                raise pickle.UnpicklingError(THEANOS)
            found = _Arrays(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged pickle may raise any kind
        if the_disks_own(error):
            raise
        raise ValueError(f"it is no .npy file, or is cut short ({error!r})") from error
    layers = found.item() if isinstance(found, np.ndarray) and found.shape == shape == () else None
    if not isinstance(layers, dict):
        raise ValueError("it holds no layers by name; expected a dict, as bvlc_alexnet.npy has")
    return layers


class _Arrays(pickle.Unpickler):
    """Unpickles dicts, lists and numpy's arrays; nothing else is ever imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle of arrays needs, in old and new numpy; UnpicklingError for all else."""
        # numpy moved its insides to numpy._core in 2.0.
        key = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        if key not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"to read it, Python would have to import {module}.{name}, which may run any code; "
                "expected numpy's arrays alone. Nothing was run"
            )
        return _ALLOWED[key]


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> NDArray:
    """An empty array, which the pickle then fills."""
    return np.empty(0, np.int8)


def _dtype(kind: Any, align: int = 0, copy: int = 0) -> np.dtype:
    """numpy 2.4 warns of old files, in which both are numbers."""
    return np.dtype(kind, bool(align), bool(copy))


def _frombuffer(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> NDArray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes like this for Python 2."""
    return text.encode("latin1")


_ALLOWED: dict[str, type | Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
}


def _weights(name: str, layer: Any) -> dict[str, NDArray]:
    arrays = list(layer) if isinstance(layer, list | tuple | np.ndarray) else []
    if len(arrays) != 2 or not all(isinstance(one, np.ndarray) for one in arrays):
        raise ValueError(f"{name} holds no pair of arrays; expected weights and biases")
    weight, bias = arrays
    if weight.ndim != (4 if name.startswith("conv") else 2):
        raise ValueError(f"the weights of {name} are {list(weight.shape)}; expected AlexNet's")
    weight = weight.T if weight.ndim == 2 else weight.transpose(3, 2, 0, 1)
    return {f"{name}.weight": weight, f"{name}.bias": bias.reshape(-1)}
