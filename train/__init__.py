"""The run: from `torchrun -m train` to the last checkpoint."""

from pipeline import starting

starting.begin()
