"""The run: from `torchrun -m train` to the last checkpoint."""
