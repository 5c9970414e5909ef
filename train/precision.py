"""Numeric precision: fp32, tf32 or bf16; weights, momentum and losses are always float32."""

from contextlib import AbstractContextManager

import torch

from train.config import ConfigError


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """Set whether GPUs round products to tf32, and ask for the same bits in every run.

    It holds for the whole process. ConfigError where the device has no such arithmetic.
    """
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError(
            "train.precision is tf32, which only NVIDIA GPUs have; expected fp32 or bf16 on a CPU"
        )
    torch.backends.cudnn.deterministic = True  # a resumed run is to compute the same bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context for a forward pass: bf16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
