"""What the authors' lab watched of each layer: its weights and how far a step moves them.

The 2012 code printed the mean size of both, by which a learning rate that is too high or too low is
seen. Beside them: the share of maps or neurons that are zero over a whole batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from alexnet_dali.model.alexnet import AlexNet


class LayerStats:
    """Watches single steps. Every rank watches the same ones, as its columns see them."""

    def __init__(
        self, model: AlexNet, all_reduce_over_pairs: Callable[[Tensor], Tensor], uses_relu: bool
    ) -> None:
        """`all_reduce_over_pairs` adds up counts over the pairs, which see other images each."""
        self._model, self._all_reduce_over_pairs = model, all_reduce_over_pairs
        self._names = [line.name for line in model.table]
        # The last layer has no ReLU, and tanh is never silent.
        self._watched = self._names[:-1] if uses_relu else []
        self._active: dict[tuple[int, str], Tensor] = {}
        self._sums = torch.empty(0)

    @contextmanager
    def watching(self, due: bool) -> Iterator[None]:
        """Watch the step inside, if one is `due`: a step computes the same bits either way."""
        if not due:
            yield
            return
        before = [self._weight(*place).detach().clone() for place in self._places()]
        hooks = [
            self._layer(column, name).register_forward_hook(self._note(column, name))
            for column, name in self._places()
            if name in self._watched
        ]
        yield
        for hook in hooks:
            hook.remove()
        sizes = [
            _sizes(self._weight(*place).detach(), old)
            for place, old in zip(self._places(), before, strict=True)
        ]
        self._sums = torch.stack(sizes).view(-1, len(self._names), 3)

    def numbers(self) -> dict[str, float]:
        """What the step that was watched last has shown, by tag. Every rank must call it.

        Each column adds up its own numbers. So the result has the same bits wherever columns are.
        """
        own = torch.cat([self._sums, self._silent()], dim=2)
        of_all = self._model.columns.sum(list(own))
        found: dict[str, float] = {}
        for name, row in zip(self._names, of_all.tolist(), strict=True):
            weights, update, count, silent, units = row
            found[f"weights/{name}"] = weights / count
            found[f"weights_update/{name}"] = update / count
            found[f"weights_update_ratio/{name}"] = update / weights if weights else 0.0
            if name in self._watched:
                found[f"units_dead_fraction/{name}"] = silent / units
        return dict(sorted(found.items()))

    def _silent(self) -> Tensor:
        """[columns held, layers, 2]: silent units of each layer, and all units."""
        counts = self._sums.new_zeros(len(self._model.own_columns), len(self._names), 2)
        if not self._active:
            return counts
        places = [place for place in self._places() if place[1] in self._watched]
        lengths = [len(self._active[place]) for place in places]
        pairs = torch.cat([self._active[place] for place in places]).int()
        active = self._all_reduce_over_pairs(pairs).split(lengths)
        for (column, name), units in zip(places, active, strict=True):
            row = counts[column, self._names.index(name)]
            row[0], row[1] = (units == 0).sum(), len(units)
        return counts

    def _places(self) -> list[tuple[int, str]]:
        """The layers of the columns held here."""
        held = range(len(self._model.own_columns))
        return [(column, name) for column in held for name in self._names]

    def _layer(self, column: int, name: str) -> nn.Module:
        return self._model.own_columns[column].get_submodule(name)

    def _weight(self, column: int, name: str) -> Tensor:
        return cast(nn.Linear, self._layer(column, name)).weight

    def _note(self, column: int, name: str) -> Any:
        """A hook that takes down which of a layer's maps or neurons are ever more than zero."""

        def note(module: nn.Module, inputs: Any, maps: Tensor) -> None:
            others = [dim for dim in range(maps.dim()) if dim != 1]
            self._active[column, name] = maps.detach().amax(others) != 0

        return note


def _sizes(weight: Tensor, before: Tensor) -> Tensor:
    """[3] float64: sums of the sizes of the weights and of their updates, and how many."""
    sums = [value.abs().sum(dtype=torch.float64) for value in (weight, weight - before)]
    return torch.stack([*sums, torch.full_like(sums[0], weight.numel())])
