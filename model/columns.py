"""Who holds which column, and the two ways in which columns exchange what they computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from alexnet_dali.model import collectives

NUM_COLUMNS = 2


@dataclass(frozen=True)
class Columns:
    """The columns that this process holds: all of them, or one of two.

    Its partner in `group` then holds the other. Column c owns part c of the rows (outputs) of every
    layer's weight and bias. Sequences in the methods' arguments have an item for each held column.
    """

    held: tuple[int, ...] = (0, 1)
    group: dist.ProcessGroup | None = None
    num_columns: int = NUM_COLUMNS

    @classmethod
    def whole(cls, num_columns: int) -> "Columns":
        """All of a network's columns, held by one process."""
        return cls(tuple(range(num_columns)), None, num_columns)

    @property
    def all_held(self) -> bool:
        """True where there is no partner."""
        return len(self.held) == self.num_columns

    def cross_talk(self, maps: Sequence[Tensor]) -> Tensor:
        """Both columns' maps [N, C, ...] side by side, for layers that read both (section 3.5)."""
        if self.num_columns == 1:
            return maps[0]
        if self.all_held:
            return torch.cat(tuple(maps), dim=1)
        return _CrossTalk.apply(maps[0], self.group)

    def collect_logits(self, logits: Sequence[Tensor]) -> Tensor:
        """Both columns' logits [N, C], side by side, for the loss that every process computes."""
        if self.all_held:
            return torch.cat(tuple(logits), dim=1)
        return _CollectLogits.apply(logits[0], self.group, self.held[0])

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors from the columns' own: `cat` along dim 0 for every key.

        Both partners must call it.
        """
        if self.all_held:
            return {key: torch.cat([state[key] for state in states]) for key in states[0]}
        return {key: _all_gather(value, self.group) for key, value in states[0].items()}

    def sum(self, own: Sequence[Tensor]) -> Tensor:
        """The sum of one tensor [...] of each column; the same bits wherever columns are.

        Both partners must call it.
        """
        return self.merge([{"own": one[None]} for one in own])["own"].sum(0)

    def split(self, full: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The held columns' own tensors from full ones; the inverse of `merge`."""
        return [
            {key: value.chunk(self.num_columns)[column] for key, value in full.items()}
            for column in self.held
        ]


class _CrossTalk(torch.autograd.Function):
    """Forward: all-gather. Backward: reduce-scatter.

    Channels are sent as the last dim, as they lie in memory. The columns read the gathered maps
    with different weights, so the gradient of a map is the sum of both columns' gradients.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        both = _all_gather(maps.movedim(1, -1), group)
        return torch.cat(both.chunk(NUM_COLUMNS), dim=-1).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        by_column = torch.cat(grad.movedim(1, -1).chunk(NUM_COLUMNS, dim=-1))
        own = by_column.new_empty(by_column.shape[0] // NUM_COLUMNS, *by_column.shape[1:])
        with record_function("column gathers"):
            collectives.reduce_scatter_single(own, by_column, group=ctx.group)
        return own.movedim(-1, 1), None


class _CollectLogits(torch.autograd.Function):
    """Forward: all-gather. Backward: keep one's own half.

    Both partners compute the same loss from the same logits, so each has the whole gradient
    already. Adding the two up would double it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, group: dist.ProcessGroup, column: int) -> Tensor:
        ctx.column = column
        return torch.cat(_all_gather(logits, group).chunk(NUM_COLUMNS), dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.chunk(NUM_COLUMNS, dim=1)[ctx.column], None, None


def _all_gather(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Both columns' tensors, one after the other along dim 0."""
    both = own.new_empty(NUM_COLUMNS * own.shape[0], *own.shape[1:])
    with record_function("column gathers"):
        collectives.all_gather_single(both, own.contiguous(), group=group)
    return both
