"""Take a GPU, or say why it can't be had."""

import re
from pathlib import Path

import torch

from alexnet_dali.train.config import ConfigError

_NEEDED_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest branch of NVIDIA's Linux driver for each major version of CUDA.

From CUDA's release notes.
"""
_OTHERWISE = (
    "install a PyTorch that was built for an older CUDA (pytorch.org gives the command for "
    "each), or choose --run.device cpu (--device cpu)"
)


def take(number: int) -> torch.device:
    """GPU `number` of this machine, as this process's own; ConfigError where it can't be used."""
    try:
        torch.cuda.init()  # PyTorch counts GPUs without it, and so finds some that it can't use
        torch.cuda.set_device(number)
    except RuntimeError as error:
        raise ConfigError(_why_not(number, error)) from error
    found, built_for = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
    if not runs_on(found, built_for):
        raise ConfigError(
            f"GPU {number} is a {torch.cuda.get_device_name(number)} of compute capability "
            f"{found[0]}.{found[1]}, for which PyTorch {torch.__version__} (CUDA "
            f"{torch.version.cuda}) holds no code ({', '.join(built_for)}); " + _OTHERWISE
        )
    return torch.device("cuda", number)


def runs_on(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether code for `built_for`, such as sm_80, runs on a GPU of this compute capability.

    Machine code (sm) runs on later minor versions of its major version, portable code (compute) on
    all later versions.
    """
    for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)", " ".join(built_for)):
        version = int(major), int(minor)
        if version <= capability and (kind == "compute" or version[0] == capability[0]):
            return True
    return False


def _why_not(number: int, error: RuntimeError) -> str:
    said = str(error).splitlines()[0]
    if "driver" not in said:
        return (
            f"GPU {number} of {torch.cuda.device_count()} can't be taken ({said}); nvidia-smi "
            "says in what state it is and who uses it. Choose others with CUDA_VISIBLE_DEVICES, "
            "or --run.device cpu (--device cpu)"
        )
    major = int((torch.version.cuda or "0").split(".")[0])
    needed = f"R{_NEEDED_DRIVER[major]} or newer" if major in _NEEDED_DRIVER else "a newer one"
    return (
        f"{torch.cuda.device_count()} GPUs were found, but PyTorch {torch.__version__} (CUDA "
        f"{torch.version.cuda}) can't use them: found driver {driver()}, expected {needed} "
        f"({said}). Update the driver, {_OTHERWISE}"
    )


def driver() -> str:
    """The version of the NVIDIA driver that the kernel has loaded, such as 535.104.05."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    version = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return version[0] if version else "unknown"
