"""A trained network as the plain module, and as the tensors and words that describe it."""

import json
from typing import Any

from torch import Tensor

from alexnet_dali.model.layers import Conv, Layer, Shape, layers, shapes
from alexnet_dali.tools.export.plain_alexnet import AlexNet
from alexnet_dali.train.networks import Trained


def tensors(network: Trained) -> dict[str, Tensor]:
    """Weights and biases of all layers, `conv1.weight` to `fc8.bias`, and the `mean` to subtract.

    Two columns may have one more output in the last layer than there are classes; it is left out.
    """
    full = {name: value.cpu().contiguous() for name, value in network.model.full_state().items()}
    for name in ("fc8.weight", "fc8.bias"):
        full[name] = full[name][: len(network.classes)].contiguous()
    return full | {"mean": network.mean.cpu().contiguous()}


def metadata(network: Trained) -> dict[str, str]:
    """Words that go into a file beside the tensors: plain text, or JSON."""
    recipe = {section: dict(values) for section, values in network.recipe.items()}
    # Folders of the machine that trained it concern nobody.
    del recipe["run"], recipe["data"]["root"], recipe["train"]["init_from"]
    return {
        "made_by": "alexnet-dali, alexnet export",
        "step": str(network.step),
        "network": json.dumps(_about(network)),
        "recipe": json.dumps(recipe),
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
    return {
        "crop": crop,
        "resize": network.data.resize,
        "classes": network.classes,
        "names": network.names,
        "layers": [_layer(layer, sizes[layer.name], network) for layer in table],
    }


def _layer(layer: Layer, shape: Shape, network: Trained) -> dict[str, Any]:
    """A layer of both columns together."""
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
        "groups": groups,
        "columns": config.columns,
        "activation": config.activation,
        "activation_last": layer.activation_last,
        "norm_alpha": config.norm_alpha if layer.norm else None,
        "within_channel_norm": layer.within_channel_norm,
        "pool": layer.pool,
    }
