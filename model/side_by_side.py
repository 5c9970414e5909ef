"""Both columns' first layers at the same time in one process, as two ranks would run them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def side_by_side(
    run: Callable[[Any, Tensor], Tensor], columns: Sequence[nn.Module], x: Tensor
) -> list[Tensor]:
    """`run(column, x)` for two columns at the same time, each with half of the threads.

    How a convolution adds up the gradient of its weights depends on the number of threads. With
    half of them, these layers compute the bits that two ranks compute. `x` gets no gradient.
    """
    parameters = [parameter for column in columns for parameter in column.parameters()]
    return list(_SideBySide.apply(run, columns, x, *parameters))


class _SideBySide(torch.autograd.Function):
    """Each column keeps a graph of its own; the backward pass runs them side by side, too."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable, columns: Sequence[nn.Module], x: Tensor, *parameters: Tensor
    ) -> Any:
        precision = torch.get_autocast_dtype(x.device.type)
        enabled = torch.is_autocast_enabled(x.device.type)

        def forward(column: nn.Module) -> Tensor:  # grad mode and autocast are a thread's own
            with torch.enable_grad(), torch.autocast(x.device.type, precision, enabled=enabled):
                return run(column, x.detach())

        ctx.outputs = list(_threads().map(forward, columns))
        ctx.num_inputs = 3 + len(parameters)
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        list(_threads().map(torch.autograd.backward, ctx.outputs, grads))
        return (None,) * ctx.num_inputs


@cache
def _threads() -> ThreadPoolExecutor:
    share = max(1, torch.get_num_threads() // 2)
    return ThreadPoolExecutor(2, "column", initializer=torch.set_num_threads, initargs=(share,))
