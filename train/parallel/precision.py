"""Numeric precision: fp32, tf32 or bf16; weights, momentum and losses are always float32."""

from contextlib import AbstractContextManager

import torch

from alexnet_dali.train.config import ConfigError


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """Set whether GPUs round products to tf32, and ask for the same bits in every run.

    It holds for the whole process. ConfigError where the device has no such arithmetic.
    """
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError(
            "train.precision is tf32, which only NVIDIA GPUs have; expected fp32 or bf16 on a CPU"
        )
    if device.type == "cuda" and precision != "fp32" and not has_tf32_and_bf16(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
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


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context for a forward pass: bf16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
