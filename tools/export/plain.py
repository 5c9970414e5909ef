"""A trained network as the plain module, and as the tensors and words that describe it."""

import json
from typing import Any

from torch import Tensor

from alexnet_dali.model.layers import Conv, Layer, Shape, layers, shapes
from alexnet_dali.tools.export.plain_alexnet import AlexNet
from alexnet_dali.train.networks import Trained

OPSET = 18
"""Of ONNX graphs, where nobody asks for another: what the exporter writes without converting."""


def tensors(network: Trained) -> dict[str, Tensor]:
    """The plain module's state: `conv1.weight` to `fc8.bias`, and `centre.mean`, to subtract.

    Two columns may have one more output in the last layer than there are classes; it is left out.
    """
    full = {name: value.cpu().contiguous() for name, value in network.model.full_state().items()}
    for name in ("fc8.weight", "fc8.bias"):
        full[name] = full[name][: len(network.classes)].contiguous()
    return full | {"centre.mean": network.mean.cpu().contiguous()}


def recipe(network: Trained) -> dict[str, Any]:
    """The run's config, without the folders of the machine that trained it: they concern nobody."""
    sections = {section: dict(values) for section, values in network.recipe.items()}
    del sections["run"], sections["data"]["root"], sections["train"]["init_from"]
    return sections


def metadata(network: Trained, card: str) -> dict[str, str]:
    """Words that go into a file beside the tensors: plain text, or JSON.

    `card` is the name of the file that describes this one.
    """
    return {
        "made_by": "alexnet-dali, alexnet export",
        "card": card,
        "step": str(network.step),
        "network": json.dumps(_about(network)),
        "recipe": json.dumps(recipe(network)),
    }


def plain(network: Trained) -> AlexNet:
    """The same network as the module that is exported, on the CPU."""
    module = AlexNet(_about(network))
    module.load_state_dict(tensors(network))
    return module.eval()


def _about(network: Trained) -> dict[str, Any]:
    """What the plain module is built from."""
    config, crop = network.architecture, network.data.crop
    table = layers(config, len(network.classes))
    sizes = shapes(table, config.columns, crop)
    sides = [crop, *(sizes[layer.name].side for layer in table)]
    return {
        "crop": crop,
        "resize": network.data.resize,
        "classes": network.classes,
        "names": network.names,
        "layers": [
            _layer(layer, sizes[layer.name], side, network) for layer, side in zip(table, sides)
        ],
    }


def _layer(layer: Layer, shape: Shape, side: int, network: Trained) -> dict[str, Any]:
    """A layer of both columns together; it reads maps of `side` pixels."""
    config = network.architecture
    if not isinstance(layer, Conv):
        hidden = layer.name != "fc8"
        return {
            "name": layer.name,
            "in_channels": shape.in_channels,
            "out_channels": shape.out_channels * config.columns if hidden else len(network.classes),
            "activation": config.activation if hidden else None,
            "dropout": layer.dropout,
        }
    groups = 1 if layer.reads_both or layer.name == "conv1" else config.columns
    return {
        "name": layer.name,
        "in_channels": shape.in_channels * groups,
        "out_channels": shape.out_channels * config.columns,
        "size": layer.size,
        "stride": layer.stride,
        "padding": layer.padding,
        "missing": -(side + 2 * layer.padding - layer.size) % layer.stride,
        "groups": groups,
        "columns": config.columns,
        "activation": config.activation,
        "activation_last": layer.activation_last,
        "norm_alpha": config.norm_alpha if layer.norm else None,
        "within_channel_norm": layer.within_channel_norm,
        "pool": layer.pool,
    }
