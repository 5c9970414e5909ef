"""Random numbers that are a function of their purpose: nothing to save, the same on every rank."""

import hashlib

import torch


def generator(device: torch.device, *purpose: int | str) -> torch.Generator:
    """A fresh generator on `device`, seeded by what it is for, such as (seed, "dropout", step, layer)."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
