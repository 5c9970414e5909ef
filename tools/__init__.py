"""Commands: prepare, look at, evaluate, and whatever else people type."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Where `configs` is: the folder of a checkout, or of the installed packages."""

if __name__ == "tools":  # python -m tools.x, in a checkout
    runpy.run_path(str(ROOT / "tools/checkout.py"))
