"""A stand-in for a CUDA graph: a step's operations, written down as a GPU would be given them.

They are seen below autograd: an operation, its numbers, and its tensors by where they lie. Two
steps with equal notes can be one graph. On a CPU, notes can be played back, too: each operation is
done again, on the tensors that it was given and into those that it gave.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Tape(TorchDispatchMode):
    """Notes what is done inside."""

    def __init__(self, fixed: Mapping[str, Tensor]):
        """`fixed` may be read and written by every step; results of a step are its own."""
        super().__init__()
        self.notes: list[tuple[str, Any, Any]] = []
        self.strangers: list[str] = []
        # They keep results alive, so that no two have the same address.
        self._calls: list[tuple[Callable, Any, Any, Any]] = []
        self._names = {_place(tensor): name for name, tensor in fixed.items()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.namespace == "profiler":  # the host's remarks
            return function(*args, **kwargs)
        described = tree_map(self._describe, (args, kwargs))
        result = function(*args, **kwargs)
        number = len(self.notes)
        for place, tensor in enumerate(_tensors(result)):
            self._names.setdefault(_place(tensor), f"result {number}.{place}")
        self.notes.append((str(function), *map(repr, described)))
        self._calls.append((function, args, kwargs, result))
        return result

    def _describe(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if _place(value) not in self._names:
            self.strangers.append(f"a tensor {list(value.shape)} from elsewhere")
        name = self._names.setdefault(_place(value), f"stranger {len(self.strangers)}")
        return name, tuple(value.shape), value.stride(), value.storage_offset(), value.dtype

    @torch.no_grad()
    def play(self) -> None:
        """Do everything again."""
        for function, args, kwargs, before in self._calls:
            after = function(*args, **kwargs)
            for old, new in zip(_tensors(before), _tensors(after), strict=True):
                if _place(old) != _place(new):
                    old.copy_(new)


class TapeRecorder:
    """Records as train/capture.py's CudaGraph does, on a tape."""

    def __init__(self, fixed: Mapping[str, Tensor]):
        self._fixed = fixed
        self.asides = self.records = self.replays = 0

    def aside(self, work):
        """Do `work`."""
        self.asides += 1
        work()

    def record(self, work):
        """Take notes of `work`, and undo it."""
        self.records += 1
        before = {name: tensor.detach().clone() for name, tensor in self._fixed.items()}
        tape = Tape(self._fixed)
        with tape:
            work()
        with torch.no_grad():
            for name, tensor in self._fixed.items():
                tensor.copy_(before[name])

        def replay():
            self.replays += 1
            tape.play()

        return replay


def fixed_tensors(trainer: Any) -> dict[str, Tensor]:
    """What a step may read and write beside its batch and its results."""
    state = trainer.state
    found = {"sums": state.sums}
    found |= {f"key {number}": key for number, key in trainer.masks.keys.items()}
    found |= {f"rate {i}": group["lr"] for i, group in enumerate(state.optimizer.param_groups)}
    for name, parameter in state.model.named_parameters():
        found[name] = parameter
        found[f"momentum of {name}"] = state.optimizer.state[parameter]["momentum_buffer"]
    return found


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _place(tensor: Tensor) -> int:
    """Equal for tensors in the same memory; meta tensors have a memory of their own, too."""
    return tensor.untyped_storage()._cdata
