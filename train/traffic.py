"""What ranks send each other in a step, as formulas; `tests/test_traffic.py` counts the real thing."""

from typing import NamedTuple

from model.alexnet import ModelConfig, sides
from model.columns import NUM_COLUMNS

FLOAT, HALF, LABEL = 4, 2, 8
"""Bytes of a float32, a bfloat16 and a class index."""


class Traffic(NamedTuple):
    """Bytes that one rank receives in a training step."""

    inputs: float  # the partner's part of the batch, exchanged ahead of time
    columns: float  # the partner's maps and logits on the way forward, sums of gradients on the way back
    gradients: float  # the other pairs' gradients, in a ring

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def bytes_per_step(
    config: ModelConfig, num_classes: int, crop: int, batch_size: int, num_pairs: int, precision: str
) -> Traffic:
    """`batch_size` is global; `num_pairs` 0 stands for a single process, which receives nothing."""
    if num_pairs == 0:
        return Traffic(0, 0, 0)
    rows = batch_size // num_pairs
    number = HALF if precision == "bf16" else FLOAT
    *_, pool2, pool5 = sides(config, crop)
    maps = config.kernels[1] * pool2**2 + config.kernels[4] * pool5**2 + 2 * config.fc_width
    outputs = -(-num_classes // NUM_COLUMNS)
    # A gather brings the partner's half of the maps, and its backward rule the partner's half of a sum.
    columns = rows * number * (2 * maps // NUM_COLUMNS + outputs)
    inputs = rows // NUM_COLUMNS * (3 * crop**2 * FLOAT + LABEL)
    gradients = 2 * (num_pairs - 1) / num_pairs * FLOAT * column_parameters(config, num_classes, crop)
    return Traffic(inputs, columns, gradients)


def column_parameters(config: ModelConfig, num_classes: int, crop: int) -> int:
    """Weights and biases of one column."""
    own = [kernels // NUM_COLUMNS for kernels in config.kernels]
    read = [3, own[0], config.kernels[1], own[2], own[3]]
    areas = [config.conv1_size**2, 25, 9, 9, 9]
    convolutions = sum(out * (fan * area + 1) for out, fan, area in zip(own, read, areas, strict=True))
    hidden = config.fc_width // NUM_COLUMNS
    pool5 = config.kernels[4] * sides(config, crop)[-1] ** 2
    outputs = -(-num_classes // NUM_COLUMNS)
    return convolutions + hidden * (pool5 + 1) + (hidden + outputs) * (config.fc_width + 1)
