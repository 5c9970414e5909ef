"""One column: its share of the kernels and neurons of every layer (section 3.5, figure 2)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import Conv, Layer, Shape
from alexnet_dali.model.response_norm import Norm, same_map_norm

Activation = Callable[[Tensor], Tensor]


class Column(nn.Module):
    """The layers of the table, each with this column's share of its kernels or neurons."""

    fc8: nn.Linear

    def __init__(
        self, table: Sequence[Layer], shapes: Mapping[str, Shape], config: ModelConfig, norm: Norm
    ) -> None:
        """`norm` is the response norm to use; AlexNet sets the weights."""
        super().__init__()
        activation: Activation = F.relu if config.activation == "relu" else torch.tanh
        *hidden, last = table
        for line in hidden:
            shape = shapes[line.name]
            if isinstance(line, Conv):
                layer: nn.Module = ConvLayer(line, shape, activation, norm, config.norm_alpha)
            else:
                layer = FullLayer(shape, activation)
            self.add_module(line.name, layer)
        reads, gives, _ = shapes[last.name]
        self.add_module(last.name, nn.Linear(reads, gives))

    def forward(self, x: Tensor, block: Sequence[Layer]) -> Tensor:
        """Apply the layers of `block`: from what its first layer reads to this column's maps."""
        for line in block:
            x = self.get_submodule(line.name)(x)
        return x


class ConvLayer(nn.Conv2d):
    """A convolution, its activation, and the norm and pooling that follow (section 3.5)."""

    def __init__(
        self, line: Conv, shape: Shape, activation: Activation, norm: Norm, norm_alpha: float
    ) -> None:
        super().__init__(shape.reads, shape.gives, line.size, line.stride, line.padding)
        self.line, self.activation = line, activation
        self.norm, self.norm_alpha = norm, norm_alpha

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, reads, side, side] to [N, gives, side, side]."""
        line = self.line
        missing = -(x.shape[-1] + 2 * line.padding - line.size) % line.stride
        if missing:  # windows that reach over the edge count, too: they see zeros there (2012 code)
            x = F.pad(x, (0, missing, 0, missing))
        x = super().forward(x)
        if not line.activation_last:
            x = self.activation(x)
        if line.norm:
            x = self.norm(x, self.norm_alpha)
        if line.same_map_norm:
            x = same_map_norm(x)
        if line.pool:
            x = F.max_pool2d(x, line.pool, stride=2)
        return self.activation(x) if line.activation_last else x


class FullLayer(nn.Linear):
    """A hidden fully connected layer and its activation."""

    def __init__(self, shape: Shape, activation: Activation) -> None:
        super().__init__(shape.reads, shape.gives)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Both columns' activations [N, reads] to this column's neurons [N, gives]."""
        return self.activation(super().forward(x))
