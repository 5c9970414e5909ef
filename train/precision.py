"""In which numbers the network computes; weights, momentum and losses are float32 in all of them."""

from contextlib import AbstractContextManager

import torch

from train.config import ConfigError


def set_up(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context for a forward pass in `precision`: fp32, tf32 (products of GPUs that have it) or bf16.

    ConfigError where the device has no such arithmetic.
    """
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError("train.precision is tf32, which only NVIDIA GPUs have; expected fp32 or bf16 on a CPU")
    torch.backends.cudnn.deterministic = True  # a resumed run is to compute the same bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
