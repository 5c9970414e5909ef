# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026, the alexnet-dali authors; the licence stands at the end of this file.
"""A trained AlexNet as one plain module; it needs torch and the file of weights beside this one.

    from alexnet import load          # if this file is alexnet.py, with alexnet.safetensors

    network = load()
    logits = network(images)          # [N, 3, S, S] RGB from 0 to 255 -> [N, classes]
    hidden = network.features(images, "fc7")

This is the network of Krizhevsky, Sutskever and Hinton (2012) as it is tested: nothing is dropped.
Both columns are in one network. Where they do not talk, convolutions are grouped.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class AlexNet(nn.Module):
    """Images to logits. `class_folders` and `class_names` say what the logits stand for.

    It was trained on crops of `crop` pixels, out of central squares of `resize` pixels. Its
    children, in order, are the network: `centre`, `conv1`, `conv1_relu`, ..., `fc8`.
    """

    crop: int
    resize: int
    class_folders: list[str]
    class_names: list[str]
    layer_names: list[str]

    def __init__(self, about: dict[str, Any]) -> None:
        """Build the network that `about` describes, with weights that are not set yet.

        `about` holds the layers in order, sides in pixels, and the classes.
        """
        super().__init__()
        self.crop = about["crop"]
        self.resize = about["resize"]
        self.class_folders = about["classes"]
        self.class_names = about["names"]
        self.layer_names = [layer["name"] for layer in about["layers"]]
        convolutions = [layer for layer in about["layers"] if "size" in layer]
        self.add_module("centre", Centre(self.crop))
        for layer in convolutions:
            self._add(_convolution(layer))
        self.add_module("flatten", nn.Flatten())
        for layer in about["layers"][len(convolutions) :]:
            self._add(_fully_connected(layer))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S], RGB from 0 to 255, to logits [N, classes].

        S is that of the crop or more: then the central crop is taken.
        """
        for module in self.children():
            images = module(images)
        return images

    def forward_features(self, images: Tensor) -> Tensor:
        """The maps [N, C, H, W] that the fully connected layers read."""
        names = [name for name, _ in self.named_children()]
        return self._up_to(images, names.index("flatten"))

    def features(self, images: Tensor, layer: str) -> Tensor:
        """What a layer passes on: maps [N, C, H, W] of a convolution, or neurons [N, width].

        Maps are those after norm and pooling, hidden neurons those at half strength (section 4.2).
        ValueError where there is no such layer.
        """
        if layer not in self.layer_names:
            raise ValueError(f"found no layer {layer!r}; expected {', '.join(self.layer_names)}")
        owners = [name.partition("_")[0] for name, _ in self.named_children()]
        return self._up_to(images, owners.index(layer) + owners.count(layer))

    def _up_to(self, x: Tensor, count: int) -> Tensor:
        """What the first `count` children make of images."""
        for module in list(self.children())[:count]:
            x = module(x)
        return x

    def _add(self, modules: Iterator[tuple[str, nn.Module]]) -> None:
        for name, module in modules:
            self.add_module(name, module)


def _convolution(about: dict[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """A convolution, its activation, and the norm and pooling that follow (section 3.5)."""
    name, width = about["name"], about["out_channels"]
    activation = (f"{name}_{about['activation']}", ACTIVATIONS[about["activation"]]())
    if about["missing"]:  # windows that reach over the edge count, too: they see zeros there
        yield f"{name}_pad", nn.ZeroPad2d((0, about["missing"], 0, about["missing"]))
    sizes = (about["size"], about["stride"], about["padding"])
    yield name, nn.Conv2d(about["in_channels"], width, *sizes, groups=about["groups"])
    if not about["activation_last"]:
        yield activation
    if about["norm_alpha"] is not None:
        yield f"{name}_norm", ResponseNorm(width, about["columns"], about["norm_alpha"])
    if about["within_channel_norm"]:
        yield f"{name}_norm2", WithinChannelNorm()
    if about["pool"]:
        yield f"{name}_pool", nn.MaxPool2d(about["pool"], stride=2)
    if about["activation_last"]:
        yield activation


def _fully_connected(about: dict[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """A fully connected layer; hidden ones go on at the strength that dropout left them."""
    name = about["name"]
    yield name, nn.Linear(about["in_channels"], about["out_channels"])
    if about["activation"] is not None:
        yield f"{name}_{about['activation']}", ACTIVATIONS[about["activation"]]()
        yield f"{name}_scale", Scale(1 - about["dropout"])


class Centre(nn.Module):
    """The central crop, less the mean of the training images."""

    mean: Tensor

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.crop = crop
        self.register_buffer("mean", torch.zeros(3, crop, crop))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] to [N, 3, crop, crop]."""
        top, left = (images.shape[2] - self.crop) // 2, (images.shape[3] - self.crop) // 2
        crop = images[:, :, top : top + self.crop, left : left + self.crop]
        return crop.to(self.mean.dtype) - self.mean


class ResponseNorm(nn.Module):
    """x / (2 + alpha * sum of squares over 5 neighbouring maps)^0.75 (section 3.3).

    Each column's maps are normalised apart.
    """

    def __init__(self, channels: int, columns: int, alpha: float) -> None:
        super().__init__()
        self.columns, self.width, self.alpha = columns, channels // columns, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, channels, H, W] to the same."""
        squares = x.square().unflatten(1, (self.columns, self.width))
        padded = F.pad(squares, (0, 0, 0, 0, 2, 2))
        total = padded[:, :, : self.width]
        for shift in range(1, 5):
            total = total + padded[:, :, shift : shift + self.width]
        return x / (2 + self.alpha * total.flatten(1, 2)) ** 0.75


class WithinChannelNorm(nn.Module):
    """x / (1 + 0.001 * mean of squares of 5 x 5 neighbours in the same map)^0.75 (2012 code)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, channels, H, W] to the same."""
        return x / (1 + 0.001 * F.avg_pool2d(x.square(), 5, stride=1, padding=2)) ** 0.75


class Scale(nn.Module):
    """Neurons times the share of them that training kept."""

    def __init__(self, kept: float) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """Neurons [N, width] to the same."""
        return x * self.kept


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


# BSD 3-Clause License
#
# Copyright (c) 2026, the alexnet-dali authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are met:
#
# 1. Redistributions of source code must retain the above copyright notice, this
#    list of conditions and the following disclaimer.
#
# 2. Redistributions in binary form must reproduce the above copyright notice,
#    this list of conditions and the following disclaimer in the documentation
#    and/or other materials provided with the distribution.
#
# 3. Neither the name of the copyright holder nor the names of its
#    contributors may be used to endorse or promote products derived from
#    this software without specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
# AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
# IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
# DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
# FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
# DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
# SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
# CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
# OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
