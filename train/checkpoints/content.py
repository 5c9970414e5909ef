"""What a checkpoint holds, and whether a file holds that, whoever wrote it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FORMAT = 2
TARGETS = "classes"
"""What a network is trained to tell; later versions may know others."""

IMPORTED = "imported "
"""In place of a fingerprint of the images: weights from elsewhere; then their file."""

_SCHEDULES: tuple[set[str], ...] = (set(), {"drops", "best_error", "stalled_epochs"})
_BEST = {"top1_error", "epoch", "last_error"}


def what_is_wrong(state: Any) -> str:
    """What should be of another kind, in words; empty where all is well."""
    if not isinstance(state, dict) or state.keys() != _SCHEMA.keys():
        return f"expected {', '.join(_SCHEMA)}"
    for key, (fits, expected) in _SCHEMA.items():
        if not fits(state[key]):
            return f"expected {expected} in {key}"
    shapes, buffers = (
        {name: value.shape for name, value in state[key].items()} for key in ("model", "momentum")
    )
    if shapes != buffers:
        return "momentum is of another network than the weights"
    if len(state["names"]) != len(state["classes"]):
        return "names are not one for each class"
    return ""


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_words(value: Any) -> bool:
    return type(value) is list and bool(value) and all(isinstance(word, str) for word in value)


def _are_tensors(value: Any) -> bool:
    return type(value) is dict and all(
        isinstance(name, str) and _is_dense(tensor) for name, tensor in value.items()
    )


def _is_dense(value: Any) -> bool:
    """Whether it is a tensor with a number in memory for each that it claims to have."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.numel() > 0
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _is_schedule(value: Any) -> bool:
    if type(value) is not dict or not value.keys() >= {"completed", "by_hand"}:
        return False
    numbers = {key: number for key, number in value.items() if key != "by_hand"}
    by_hand = (0, 0) if value["by_hand"] is None else value["by_hand"]
    return (
        numbers.keys() - {"completed"} in _SCHEDULES
        and type(by_hand) in (list, tuple)
        and len(by_hand) == 2
        and all(map(_is_number, [*numbers.values(), *by_hand]))
    )


def _is_best(value: Any) -> bool:
    return type(value) is dict and value.keys() == _BEST and all(map(_is_number, value.values()))


_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: type(value) is int and value == FORMAT, f"{FORMAT}"),
    "targets": (lambda value: type(value) is str and value == TARGETS, TARGETS),
    "step": (lambda value: type(value) is int and value >= 0, "a number of steps"),
    "model": (_are_tensors, "dense floating-point tensors by name"),
    "momentum": (_are_tensors, "dense floating-point tensors by name"),
    "lr": (lambda value: _is_number(value) and value >= 0, "a learning rate"),
    "schedule": (_is_schedule, "the numbers of a schedule"),
    "intervals": (
        lambda value: _is_dense(value) and value.dim() == 2 and value.shape[1] == 3,
        "three numbers for each pair of ranks",
    ),
    "config": (_is(dict), "sections of options"),
    "classes": (_are_words, "a word for each class"),
    "names": (_are_words, "a word for each class"),
    "stats": (_are_tensors, "dense floating-point tensors by name"),
    "dataset": (_is(str), "a fingerprint"),
    "best": (_is_best, "two errors and an epoch"),
}
