"""The machine that a figure was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alexnet_dali.train.parallel.devices import driver

_PACKAGES = ("nvidia-dali-cuda120", "numpy", "pillow", "torchvision", "opencv-python-headless")


def machine() -> dict[str, Any]:
    """What a figure depends on: the processor, the GPUs and their driver, and versions."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        ":",
    )
    return {
        "cpu": cpu.split(":")[1].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "driver": driver() if torch.cuda.device_count() else "none",
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # the installed package's version may lack "+cu130"
        **{package: version(package) for package in _PACKAGES if _is_installed(package)},
    }


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
