"""Images on disk to batches on a device: DALI and numpy, no networks, no collectives.

`from alexnet_dali.pipeline import DataLoader` is the public API: docs/pipeline.md. Its names are
imported when they are asked for: commands that need no DALI start without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alexnet_dali.pipeline.system.surroundings import check_process

check_process()

if TYPE_CHECKING:
    from alexnet_dali.pipeline.crops import CentreCrop, RandomCrop, RandomResizedCrop, TenCrops
    from alexnet_dali.pipeline.data_loader import DataLoader
    from alexnet_dali.pipeline.dataset import Dataset
    from alexnet_dali.pipeline.transform import Pixels

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


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES.get(name, 'crops')}"), name)
