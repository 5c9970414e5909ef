"""The run: from `torchrun -m train` to the last checkpoint."""

from pipeline.interrupts import quiet_while_starting

quiet_while_starting()
