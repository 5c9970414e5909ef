"""One column: its share of the kernels and neurons of every layer (section 3.5, figure 2)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import Conv, Layer, Shape
from alexnet_dali.model.local_response_norm import Norm, within_channel_norm

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "tanh": torch.tanh}
"""Of hidden neurons, by the names in a config (section 3.1)."""


class Column(nn.Module):
    """The layers of the table, each with this column's share of its kernels or neurons."""

    fc8: nn.Linear

    def __init__(
        self, table: Sequence[Layer], shapes: Mapping[str, Shape], config: ModelConfig, norm: Norm
    ) -> None:
        """`norm` is the response norm to use; AlexNet sets the weights."""
        super().__init__()
        activation = ACTIVATIONS[config.activation]
        *hidden, last = table
        for layer in hidden:
            shape = shapes[layer.name]
            if isinstance(layer, Conv):
                module: nn.Module = ConvLayer(layer, shape, activation, norm, config.norm_alpha)
            else:
                module = LinearLayer(shape, activation)
            self.add_module(layer.name, module)
        in_channels, out_channels, _ = shapes[last.name]
        self.add_module(last.name, nn.Linear(in_channels, out_channels))

    def forward(self, x: Tensor, block: Sequence[Layer]) -> Tensor:
        """Apply the layers of `block`: from what its first layer reads to this column's maps."""
        for layer in block:
            x = self.get_submodule(layer.name)(x)
        return x


class ConvLayer(nn.Conv2d):
    """A convolution, its activation, and the norm and pooling that follow (section 3.5)."""

    def __init__(
        self, layer: Conv, shape: Shape, activation: Activation, norm: Norm, norm_alpha: float
    ) -> None:
        super().__init__(
            shape.in_channels, shape.out_channels, layer.size, layer.stride, layer.padding
        )
        self.layer, self.activation = layer, activation
        self.norm, self.norm_alpha = norm, norm_alpha

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, in_channels, side, side] to [N, out_channels, side, side]."""
        layer = self.layer
        missing = -(x.shape[-1] + 2 * layer.padding - layer.size) % layer.stride
        if missing:  # windows that reach over the edge count, too: they see zeros there (2012 code)
            x = F.pad(x, (0, missing, 0, missing))
        x = super().forward(x)
        if not layer.activation_last:
            x = self.activation(x)
        if layer.norm:
            x = self.norm(x, self.norm_alpha)
        if layer.within_channel_norm:
            x = within_channel_norm(x)
        if layer.pool:
            x = F.max_pool2d(x, layer.pool, stride=2)
        return self.activation(x) if layer.activation_last else x


class LinearLayer(nn.Linear):
    """A hidden fully connected layer and its activation."""

    def __init__(self, shape: Shape, activation: Activation) -> None:
        super().__init__(shape.in_channels, shape.out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Both columns' activations [N, in_channels] to this column's neurons [N, out_channels]."""
        return self.activation(super().forward(x))
