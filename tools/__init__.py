"""Commands: prepare, look at, evaluate, and whatever else people type."""

from pathlib import Path

from alexnet_dali.pipeline import starting

starting.begin()

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder, where `configs` and `tests` are."""
