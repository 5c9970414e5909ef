"""How a loader's state names orders, crops and augmentations, so that a resume can compare them."""

import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, PurePath, np.generic, np.dtype)


def identity(what: str, option: object) -> str:
    """The option by qualified names and arguments, or by a `state_name` that its user gave it.

    Equal in every process for equal options. ValueError, which says `what` it is, for one that
    can't be compared: a lambda, or an object whose attributes can't be seen.
    """
    return _spelt(option, what, ())


def _spelt(value: Any, what: str, outer: tuple[int, ...]) -> str:
    """`outer` are the objects that the value is in."""
    if id(value) in outer:
        raise _not_comparable(what, "holds itself")
    outer = (*outer, id(value))
    given = getattr(value, "state_name", None)
    if isinstance(given, str):
        return repr(given)
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return _array(value, what)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{_arguments(enumerate(value), what, outer)}"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({sorted(_spelt(one, what, outer) for one in value)})"
    if isinstance(value, Mapping):
        pairs = ((_spelt(key, what, outer), one) for key, one in value.items())
        return f"{type(value).__name__}{_arguments(pairs, what, outer)}"
    if isinstance(value, functools.partial):
        parts = [*enumerate(value.args), *value.keywords.items()]
        return f"partial({_spelt(value.func, what, outer)}){_arguments(parts, what, outer)}"
    if isinstance(value, (types.MethodType, types.BuiltinMethodType)) and not isinstance(
        value.__self__, (types.ModuleType, type(None))
    ):
        return f"{_spelt(value.__self__, what, outer)}.{value.__name__}"
    if isinstance(value, types.FunctionType):
        return _function(value, what, outer)
    if isinstance(value, types.BuiltinFunctionType):
        return _name(value)
    if isinstance(value, type):
        return _class(value, what)
    attributes = _attributes(value)
    if attributes is None:
        raise _not_comparable(what, f"is {value!r}, whose attributes can't be seen")
    return f"{_class(type(value), what)}{_arguments(attributes.items(), what, outer)}"


def _arguments(pairs: Iterable[tuple[object, Any]], what: str, outer: tuple[int, ...]) -> str:
    """Each by its name, or by its place alone."""
    spelt = (
        (f"{key}=" if isinstance(key, str) else "") + _spelt(one, f"{what}, {key}", outer)
        for key, one in pairs
    )
    return f"({', '.join(spelt)})"


def _array(array: np.ndarray, what: str) -> str:
    if array.dtype.hasobject:
        raise _not_comparable(what, "is an array of Python objects")
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{array.dtype}{list(array.shape)} {digest[:16]}"


def _function(function: types.FunctionType, what: str, outer: tuple[int, ...]) -> str:
    """With its defaults, and what it took from the function that made it."""
    if function.__name__ == "<lambda>":
        raise _not_comparable(what, "is a lambda, which has no name")
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found: list[tuple[object, Any]] = [(name, cell.cell_contents) for name, cell in cells]
    found += [*enumerate(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    return _name(function) + (_arguments(found, what, outer) if found else "")


def _class(kind: type, what: str) -> str:
    """A function may make many of one name."""
    if "<locals>" in kind.__qualname__:
        raise _not_comparable(what, f"is of {kind.__name__}, a class that is made in a function")
    return _name(kind)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _attributes(value: object) -> dict[str, Any] | None:
    """What an object holds; None where Python can't tell, as of what is pickled in its own way."""
    if type(value).__reduce__ is not object.__reduce__:
        return None
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    if not hasattr(value, "__dict__") and not slots:
        return None
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _not_comparable(what: str, why: str) -> ValueError:
    return ValueError(
        f"{what} {why}, so a resume can't compare it with this one; expected a named function, or "
        "an object of such and of numbers, texts and arrays. Or give it a name, which then stands "
        'for all that it is: order.state_name = "balanced, power 2"'
    )
