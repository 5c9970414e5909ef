"""A command of version 0.1 that has moved."""

from alexnet_dali.tools.cli import moved

moved("python -m alexnet_dali.tools.bench.cost_model")
