"""Who holds which column, and the two ways in which columns exchange what they computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NUM_COLUMNS = 2


@dataclass(frozen=True)
class Columns:
    """The columns that this process holds: both of them, or number `index`, its partner being in `group`.

    A column owns a contiguous half of the rows (outputs) of every layer's weight and bias.
    """

    held: int = NUM_COLUMNS
    index: int = 0
    group: dist.ProcessGroup | None = None

    def own(self, full: Tensor, dim: int = 0) -> Tensor:
        """The held columns' share of a full parameter, or of anything else that has all outputs along `dim`."""
        return full if self.held == NUM_COLUMNS else full.chunk(NUM_COLUMNS, dim)[self.index]

    def merge(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors from both columns' shares: `cat` along dim 0 for every key. Both columns must call it."""
        if self.held == NUM_COLUMNS:
            return dict(own)
        return {key: _all_gather(value, self.group) for key, value in own.items()}

    def split(self, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The held columns' shares of full tensors; the inverse of `merge`."""
        return {key: self.own(value) for key, value in full.items()}

    def cross_talk(self, x: Tensor) -> Tensor:
        """Both columns' maps [N, C, ...] from the held ones', for a layer that reads both (paper, section 3.5)."""
        return x if self.held == NUM_COLUMNS else _CrossTalk.apply(x, self.group)

    def collect_logits(self, logits: Tensor) -> Tensor:
        """All logits [N, classes] from the held columns' half of them, for the loss that every column computes."""
        return logits if self.held == NUM_COLUMNS else _CollectLogits.apply(logits, self.group, self.index)


class _CrossTalk(torch.autograd.Function):
    """Forward: all-gather. Backward: reduce-scatter.

    The columns read the gathered maps with different weights, so the gradient of a map is the sum of what either
    column says of it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return torch.cat(_all_gather(x, group).chunk(NUM_COLUMNS), dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        by_column = torch.cat(grad.chunk(NUM_COLUMNS, dim=1))
        own = grad.new_empty(by_column.shape[0] // NUM_COLUMNS, *by_column.shape[1:])
        dist.reduce_scatter_single(own, by_column, group=ctx.group)
        return own, None


class _CollectLogits(torch.autograd.Function):
    """Forward: all-gather. Backward: keep one's own half.

    Both columns compute the same loss from the same logits, so either has the whole gradient already; adding the
    two up would double it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, group: dist.ProcessGroup, index: int) -> Tensor:
        ctx.index = index
        return torch.cat(_all_gather(logits, group).chunk(NUM_COLUMNS), dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.chunk(NUM_COLUMNS, dim=1)[ctx.index], None, None


def _all_gather(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Both columns' tensors, one after the other along dim 0."""
    both = x.new_empty(NUM_COLUMNS * x.shape[0], *x.shape[1:])
    dist.all_gather_single(both, x.contiguous(), group=group)
    return both
