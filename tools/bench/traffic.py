"""Bytes that ranks send each other in a step; tests/bench/test_traffic.py counts them."""

from typing import NamedTuple

import torch

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import blocks, layers, shapes

FLOAT, HALF, LABEL = 4, 2, 8
"""Bytes of a float32, a bfloat16 and a class index."""


class Traffic(NamedTuple):
    """Bytes that one rank receives in a training step."""

    inputs: float  # the partner's part of the batch, exchanged ahead of time
    columns: float  # the partner's maps and logits forward, sums of gradients backward
    gradients: float  # the other pairs' gradients, in a ring


def bytes_per_step(
    config: ModelConfig,
    num_classes: int,
    crop: int,
    batch_size: int,
    num_pairs: int,
    precision: str,
) -> Traffic:
    """What a rank of `num_pairs` pairs receives; `batch_size` counts the images of all ranks."""
    rows, partners = batch_size // num_pairs, config.columns - 1
    number = HALF if precision == "bf16" else FLOAT
    table = layers(config, num_classes)
    sizes = shapes(table, config.columns, crop)
    *exchanged, classes = [sizes[block[-1].name] for block in blocks(table)]
    maps = sum(shape.out_channels * shape.side**2 for shape in exchanged)
    # A gather brings the partner's half of the maps; its backward rule brings the partner's half
    # of a sum.
    columns = partners * rows * (number * 2 * maps + FLOAT * classes.out_channels)
    inputs = partners * rows // config.columns * (3 * crop**2 * FLOAT + LABEL)
    gradients = (
        2 * (num_pairs - 1) / num_pairs * FLOAT * column_parameters(config, num_classes, crop)
    )
    return Traffic(inputs, columns, gradients)


def column_parameters(config: ModelConfig, num_classes: int, crop: int) -> int:
    """Weights and biases of one column."""
    with torch.device("meta"):
        column = AlexNet(config, num_classes, crop, Columns((0,), num_columns=config.columns))
    return sum(parameter.numel() for parameter in column.parameters())
