"""The device of a rank, and its arithmetic: fp32, tf32, bf16 or fp64.

Weights, momentum and losses are float32; in fp64, all numbers are float64.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path

import torch

_NEEDED_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest branch of NVIDIA's Linux driver for each major version of CUDA.

From CUDA's release notes.
"""
_OTHERWISE = (
    "install a PyTorch that was built for an older CUDA (pytorch.org gives the command for "
    "each), or choose --run.device cpu (--device cpu)"
)


def take(number: int) -> torch.device:
    """GPU `number` of this machine, as this process's own; ValueError where it can't be used."""
    try:
        torch.cuda.init()  # PyTorch counts GPUs without it, and so finds some that it can't use
        torch.cuda.set_device(number)
    except RuntimeError as error:
        raise ValueError(_why_not(number, error)) from error
    found, built_for = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
    if not runs_on(found, built_for):
        raise ValueError(
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


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """Set whether GPUs round products to tf32, and ask for the same bits in every run.

    It holds for the whole process. ValueError where the device has no such arithmetic.
    """
    if precision == "tf32" and device.type == "cpu":
        raise ValueError(
            "train.precision is tf32, which only NVIDIA GPUs have; expected fp32 or bf16 on a CPU"
        )
    if device.type == "cuda" and precision in ("tf32", "bf16") and not has_tf32_and_bf16(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ValueError(
            f"train.precision is {precision}, and {torch.cuda.get_device_name(device)} has compute "
            f"capability {major}.{minor}; tf32 and bf16 need 8.0 or more: expected fp32"
        )
    torch.backends.cudnn.deterministic = True  # a resumed run is to compute the same bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def has_tf32_and_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in them, which begins with compute capability 8.0 (Ampere).

    Before, torch takes float32 for tf32 without a word, and bf16 is emulated.
    """
    return torch.cuda.get_device_capability(device) >= (8, 0)


def dtype(precision: str) -> torch.dtype:
    """Of the weights, and of all that follows from them."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context for a forward pass: bf16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
