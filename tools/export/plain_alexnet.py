"""A trained AlexNet as one plain module; it needs torch and the file of weights beside this one.

    from alexnet import load          # if this file is alexnet.py, with alexnet.safetensors

    network = load()
    logits = network(images)          # [N, 3, S, S] RGB from 0 to 255 -> [N, classes]
    hidden = network.features(images, "fc7")

This is the network of Krizhevsky, Sutskever and Hinton (2012) as it is tested: nothing is dropped.
Both columns are in one network. Where they do not talk, convolutions are grouped.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}


class AlexNet(nn.Module):
    """Images to logits. `class_folders` and `class_names` say what the logits stand for.

    It was trained on crops of `crop` pixels, out of central squares of `resize` pixels.
    """

    mean: Tensor

    def __init__(self, about: dict[str, Any]) -> None:
        """Build the network that `about` describes, with weights that are not set yet.

        `about` holds the layers in order, sides in pixels, and the classes.
        """
        super().__init__()
        self.crop: int = about["crop"]
        self.resize: int = about["resize"]
        self.class_folders: list[str] = about["classes"]
        self.class_names: list[str] = about["names"]
        self.layer_names: list[str] = [layer["name"] for layer in about["layers"]]
        self.register_buffer("mean", torch.zeros(3, self.crop, self.crop))
        for layer in about["layers"]:
            kind = Convolution if "size" in layer else FullyConnected
            self.add_module(layer["name"], kind(layer))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S], RGB from 0 to 255, to logits [N, classes].

        S is that of the crop or more: then the central crop is taken.
        """
        return self.run(self.centre(images))

    def features(self, images: Tensor, layer: str) -> Tensor:
        """What a layer passes on: maps [N, C, H, W] of a convolution, or neurons [N, width].

        Maps are those after norm and pooling, hidden neurons those at half strength (section 4.2).
        ValueError where there is no such layer.
        """
        if layer not in self.layer_names:
            raise ValueError(f"found no layer {layer!r}; expected {', '.join(self.layer_names)}")
        return self.run(self.centre(images), layer)

    def centre(self, images: Tensor) -> Tensor:
        """The central crop, less the mean of the training images."""
        top, left = (images.shape[2] - self.crop) // 2, (images.shape[3] - self.crop) // 2
        crop = images[:, :, top : top + self.crop, left : left + self.crop]
        return crop.to(self.mean.dtype) - self.mean

    def run(self, x: Tensor, last: str | None = None) -> Tensor:
        """Apply the layers up to `last` to crops that `centre` gives."""
        for name in self.layer_names:
            x = self.get_submodule(name)(x)
            if name == last:
                break
        return x


class Convolution(nn.Conv2d):
    """A convolution, its activation, and the norm and pooling that follow (section 3.5)."""

    def __init__(self, about: dict[str, Any]) -> None:
        """See `about` in AlexNet: `columns` are normalised apart, `groups` convolved apart."""
        super().__init__(
            about["in_channels"],
            about["out_channels"],
            about["size"],
            about["stride"],
            about["padding"],
            groups=about["groups"],
        )
        self.about, self.activation = about, ACTIVATIONS[about["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, out_channels, H', W']."""
        about = self.about
        # Windows that reach over the edge count, too: they see zeros there.
        missing = -(x.shape[-1] + 2 * about["padding"] - about["size"]) % about["stride"]
        x = super().forward(F.pad(x, (0, missing, 0, missing)) if missing else x)
        if not about["activation_last"]:
            x = self.activation(x)
        if about["norm_alpha"] is not None:
            parts = x.chunk(about["columns"], 1)
            x = torch.cat([local_response_norm(part, about["norm_alpha"]) for part in parts], 1)
        if about["within_channel_norm"]:
            x = x / (1 + 0.001 * F.avg_pool2d(x.square(), 5, stride=1, padding=2)) ** 0.75
        if about["pool"]:
            x = F.max_pool2d(x, about["pool"], stride=2)
        return self.activation(x) if about["activation_last"] else x


class FullyConnected(nn.Linear):
    """A fully connected layer; hidden ones go on at the strength that dropout left them."""

    def __init__(self, about: dict[str, Any]) -> None:
        """See `about` in AlexNet: the last layer has no activation."""
        super().__init__(about["in_channels"], about["out_channels"])
        self.kept = 1 - about["dropout"]
        self.activation = None if about["activation"] is None else ACTIVATIONS[about["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Maps or neurons [N, ...] to neurons [N, out_channels]."""
        x = super().forward(x.flatten(1))
        return x if self.activation is None else self.activation(x) * self.kept


def local_response_norm(x: Tensor, alpha: float) -> Tensor:
    """x / (2 + alpha * sum of squares over 5 neighbouring maps)^0.75 (section 3.3)."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(5))
    return x / (2 + alpha * total) ** 0.75


def load(path: str | Path | None = None) -> AlexNet:
    """The network of a .safetensors file; by default, of the one beside this file."""
    path = Path(__file__).with_suffix(".safetensors") if path is None else Path(path)
    about, tensors = read_safetensors(path)
    network = AlexNet(json.loads(about["network"]))
    network.load_state_dict(tensors)
    return network.eval()


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata, and float32 tensors by name: 8 bytes of length, JSON, then raw data."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        flat = torch.frombuffer(
            data, dtype=torch.float32, count=(end - first) // 4, offset=start + first
        )
        tensors[name] = flat.view(entry["shape"])
    return about, tensors
