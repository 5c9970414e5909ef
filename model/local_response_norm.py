"""Local response normalisation (section 3.3).

Its derivative is written out, so that it can be fused.
"""

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0
"""n, alpha, beta and k as the paper has them.

alpha is not divided by n. torch's LocalResponseNorm divides it.
"""

Norm = Callable[[Tensor, float], Tensor]
"""Maps and alpha to maps."""


def local_response_norm(x: Tensor, alpha: float = ALPHA) -> Tensor:
    """x / (k + alpha * sum of squares over 5 neighbouring maps)^beta.

    `x` [N, C, H, W] holds the maps of one column. bfloat16 maps are computed in float32. On a CPU,
    the squares that are summed are in bfloat16.
    """
    return _ResponseNorm.apply(x, alpha, _EAGER)


def within_channel_norm(x: Tensor) -> Tensor:
    """x / (1 + 0.001 * mean of squares over 5 x 5 neighbours in the same map)^0.75 (2012 code).

    Neighbours outside the map count as zeros.
    """
    wide = _widened(x)
    d = 1 + 0.001 * F.avg_pool2d(wide.square(), 5, stride=1, padding=2)
    return (wide * _power(d)).to(x.dtype)


def compiled_local_response_norm(device: torch.device) -> Norm:
    """`local_response_norm`, fused by torch.compile.

    If nothing can be compiled for `device`, it is `local_response_norm` itself, with a warning.
    """
    kernels = _Kernels(_compiled(_forward), _compiled(_backward))
    try:
        kernels.forward(torch.ones(1, SIZE, 1, 1, device=device), ALPHA)
    except Exception as error:  # training can do without the compiler, whatever it finds wrong
        _warn(error)
        return local_response_norm

    def compiled(x: Tensor, alpha: float = ALPHA) -> Tensor:
        return _ResponseNorm.apply(x, alpha, kernels)

    return compiled


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, compiled for each form of its tensors by itself.

    The compiler counts the forms that a piece of code has met. From the ninth on it runs the code
    uncompiled, which only its log says. So each form here has a piece of code of its own. One that
    can't be compiled, as where the cache is full, runs uncompiled, with a warning; the error of the
    very first one is raised: there may be no compiler.
    """
    pieces: dict[Any, Callable[..., Tensor]] = {}
    code, namespace = function.__code__, function.__globals__

    def run(*arguments: Any) -> Tensor:
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        form = tuple((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
        if form in pieces:
            return pieces[form](*arguments)
        copy = FunctionType(code.replace(), namespace)
        # Two threads may come here at once: both are to take the same piece.
        piece = pieces.setdefault(form, torch.compile(copy, dynamic=False, fullgraph=True))
        try:
            return piece(*arguments)
        except Exception as error:
            if function is _forward and len(pieces) == 1:
                raise
            _warn(error)
            pieces[form] = function
            return function(*arguments)

    return run


def _warn(error: Exception) -> None:
    said = next(filter(None, map(str.strip, str(error).splitlines())), "")[:200]
    warnings.warn(
        f"response norm runs uncompiled, several times slower ({type(error).__name__}: {said}); "
        "torch.compile needs a C++ compiler such as g++, Triton for GPUs, and a sound cache that "
        "it can write (TORCHINDUCTOR_CACHE_DIR)",
        stacklevel=3,
    )


class _Kernels(NamedTuple):
    forward: Callable[[Tensor, float], Tensor]
    backward: Callable[[Tensor, Tensor, float], Tensor]


class _ResponseNorm(torch.autograd.Function):
    """Saves only its input; computing the rest again is cheaper than keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, kernels: _Kernels) -> Tensor:
        ctx.save_for_backward(x)
        ctx.alpha, ctx.kernels = alpha, kernels
        return kernels.forward(x, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.kernels.backward(ctx.saved_tensors[0], grad, ctx.alpha), None, None


def _forward(x: Tensor, alpha: float) -> Tensor:
    """y = x p, with d = k + alpha window(x^2) and p = d^-beta."""
    wide = _widened(x)
    return (wide * _power(_denominator(wide, alpha, x.dtype))).to(x.dtype)


def _backward(x: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """dx = g p - 2 alpha beta x window(g x p / d)."""
    wide, g = _widened(x), _widened(grad)
    d = _denominator(wide, alpha, x.dtype)
    gp = g * _power(d)
    return (gp - (2 * alpha * BETA) * wide * _window_sum(gp * wide / d, x.dtype)).to(x.dtype)


_EAGER = _Kernels(_forward, _backward)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def _denominator(x: Tensor, alpha: float, precision: torch.dtype) -> Tensor:
    return K + alpha * _window_sum(x.square(), precision)


def _power(d: Tensor) -> Tensor:
    root = d.rsqrt()
    return root * root.sqrt()  # d^-0.75 without pow, which is several times slower


def _window_sum(x: Tensor, precision: torch.dtype) -> Tensor:
    """The sum over the 5 channels around each channel, or over as many as there are."""
    channels, reach = x.shape[1], SIZE // 2
    if precision == torch.bfloat16 and x.device.type == "cpu":
        # A product with a banded matrix: what the compiler for CPUs makes of shifted sums is slow
        # in this precision.
        index = torch.arange(channels, device=x.device)
        band = ((index[:, None] - index).abs() <= reach).to(precision)
        return (x.movedim(1, -1).to(precision) @ band).movedim(-1, 1).float()
    padded = F.pad(x, (0, 0, 0, 0, reach, reach))
    total = padded[:, :channels]
    for shift in range(1, SIZE):
        total = total + padded[:, shift : shift + channels]
    return total
