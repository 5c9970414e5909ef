"""Images on disk to batches on a device: DALI and numpy, no networks, no ranks.

`from pipeline import DataLoader` is the door for other training loops: docs/pipeline.md. What is
named here is imported when it is asked for: commands that need no DALI start without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.crops import CentreCrop, RandomCrop, RandomResizedCrop, TenCrops
    from pipeline.data_loader import DataLoader
    from pipeline.dataset import Dataset
    from pipeline.transform import Pixels

__all__ = [
    "CentreCrop",
    "DataLoader",
    "Dataset",
    "Pixels",
    "RandomCrop",
    "RandomResizedCrop",
    "TenCrops",
]
_FILES = {"DataLoader": "data_loader", "Dataset": "dataset", "Pixels": "transform"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_FILES.get(name, 'crops')}"), name)
