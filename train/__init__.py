"""The run: from `torchrun -m alexnet_dali.train` to the last checkpoint.

`from alexnet_dali.train import open_run` opens a trained network: docs/use.md.
"""

import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import alexnet_dali.pipeline.system.parent  # noqa: F401 - it notes at once who started this process

if __name__ == "train":  # python -m train, in a checkout
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools/checkout.py"))

__all__ = ["open_run"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.networks"), name)
