"""The run: from `torchrun -m alexnet_dali.train` to the last checkpoint."""

from alexnet_dali.pipeline import starting

starting.begin()
