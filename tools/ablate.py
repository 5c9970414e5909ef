"""A command of version 0.1 that has moved."""

from alexnet_dali.tools.cli import moved

moved("alexnet ablate")
