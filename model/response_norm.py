"""Local response normalisation (paper, section 3.3)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0
"""n, alpha, beta and k as the paper has them; alpha is not divided by n (torch's LocalResponseNorm divides)."""


def response_norm(x: Tensor) -> Tensor:
    """x / (k + alpha * sum of squares over 5 neighbouring channels)^beta, for one column's maps x [N, C, H, W]."""
    return _ResponseNorm.apply(x)


class _ResponseNorm(torch.autograd.Function):
    """Saves its input alone; with d = k + alpha * window(x^2) and p = d^-beta,

    y = x * p,    dx = g * p - 2 * alpha * beta * x * window(g * x * p / d).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * _power(_denominator(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d = _denominator(x)
        p = _power(d)
        return grad * p - (2 * ALPHA * BETA) * x * _window_sum(grad * x * p / d)


def _denominator(x: Tensor) -> Tensor:
    return _window_sum(x.square()).mul_(ALPHA).add_(K)


def _power(d: Tensor) -> Tensor:
    root = d.rsqrt()
    return root * root.sqrt()  # d^-0.75 without pow, which is several times slower


def _window_sum(x: Tensor) -> Tensor:
    """Sum over the 5 channels around each one; beyond the first and last there is nothing to add."""
    total = x.clone()
    for shift in range(1, SIZE // 2 + 1):
        total[:, shift:] += x[:, :-shift]
        total[:, :-shift] += x[:, shift:]
    return total
