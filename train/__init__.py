"""The run: from `torchrun -m alexnet_dali.train` to the last checkpoint."""

import runpy
from pathlib import Path

if __name__ == "train":  # python -m train, in a checkout
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "tools/checkout.py"))
