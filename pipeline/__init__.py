"""Images on disk to batches on a device: DALI and numpy, no networks, no ranks.

`from pipeline import DataLoader` is the door for other training loops: docs/pipeline.md.
"""

from pipeline.crops import CentreCrop, RandomCrop, RandomResizedCrop, TenCrops
from pipeline.data_loader import DataLoader
from pipeline.dataset import Dataset
from pipeline.pixels import Pixels

__all__ = [
    "CentreCrop",
    "DataLoader",
    "Dataset",
    "Pixels",
    "RandomCrop",
    "RandomResizedCrop",
    "TenCrops",
]
