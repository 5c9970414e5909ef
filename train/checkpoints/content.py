"""Whether a checkpoint holds what a run writes into one, whoever wrote it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_KINDS = {
    "step": int,
    "model": dict,
    "momentum": dict,
    "schedule": dict,
    "intervals": Tensor,
    "config": dict,
    "classes": list,
    "stats": dict,
    "dataset": str,
}
_ALIKE = ("model", "momentum")
_PLATEAU = {"drops", "best_error", "stalled_epochs"}
_BEST = {"top1_error", "epoch", "last_error"}


def what_is_wrong(state: Mapping[str, Any]) -> str:
    """What should be of another kind, in words; empty where all is well."""
    for key, kind in _KINDS.items():
        if type(state[key]) is not kind:
            return f"{key} is of the kind {type(state[key]).__name__}, expected {kind.__name__}"
    if state["step"] < 0 or not _is_number(state["lr"]) or not state["lr"] >= 0:
        return f"step is {state['step']} and lr {state['lr']}, expected none below 0"
    if not all(isinstance(name, str) for name in state["classes"]) or not state["classes"]:
        return "classes are no names"
    names = state.get("names", state["classes"])
    if type(names) is not list or list(map(type, names)) != list(map(type, state["classes"])):
        return "names are not a word for each class"
    for key in ("model", "momentum", "stats"):
        if not all(_is_of_numbers(*pair) for pair in state[key].items()):
            return f"{key} holds other things than dense floating-point tensors by name"
    shapes = [{name: value.shape for name, value in state[key].items()} for key in _ALIKE]
    if shapes[0] != shapes[1]:
        return "momentum is of another network than the weights"
    schedule = dict(state["schedule"])
    by_hand = schedule.pop("by_hand", None)
    names = schedule.keys() - {"completed"}
    if names not in (set(), _PLATEAU) or not all(map(_is_number, schedule.values())):
        return f"schedule is {str(schedule)[:80]}, expected numbers under the names of a schedule"
    if by_hand is not None and (
        type(by_hand) not in (list, tuple) or len(by_hand) != 2 or not all(map(_is_number, by_hand))
    ):
        return f"by_hand is {str(by_hand)[:80]}, expected two learning rates"
    best = state.get("best", dict.fromkeys(_BEST, 0))
    if type(best) is not dict or best.keys() != _BEST or not all(map(_is_number, best.values())):
        return f"best is {str(best)[:80]}, expected an error and an epoch"
    intervals = state["intervals"]
    if intervals.dim() != 2 or intervals.shape[1] != 3 or not _is_of_numbers("", intervals):
        return f"intervals are {list(intervals.shape)}, expected three numbers for each pair"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_of_numbers(name: Any, value: Any) -> bool:
    """Whether a tensor has a number in memory for each that it claims to have."""
    return (
        isinstance(name, str)
        and type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.numel() > 0
        and value.nbytes <= value.untyped_storage().nbytes()
    )
