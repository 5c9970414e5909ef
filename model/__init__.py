"""The two-column network of Krizhevsky, Sutskever and Hinton (2012): torch alone."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_dali.model.alexnet import AlexNet
    from alexnet_dali.model.columns import Columns
    from alexnet_dali.model.config import ModelConfig

__all__ = ["AlexNet", "Columns", "ModelConfig"]
_FILES = {"AlexNet": "alexnet", "Columns": "columns", "ModelConfig": "config"}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
