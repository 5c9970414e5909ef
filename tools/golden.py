"""A command of version 0.1 that has moved."""

from tools.cli import moved

moved("python -m tools.bench.golden")
