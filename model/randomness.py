"""Random numbers that follow from their purpose alone.

There is nothing to save, and they are the same on every rank and device.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Increment and multipliers of SplitMix64 (Steele, Lea and Flood, 2014)."""


def generator(device: torch.device, *purpose: int | str) -> torch.Generator:
    """A new generator, seeded by its purpose, such as (seed, "dropout", step, layer)."""
    return torch.Generator(device).manual_seed(_hash(*purpose) >> 1)


def key(*purpose: int | str) -> int:
    """SplitMix64's counter at its first number, seeded by the purpose: a signed 64-bit number."""
    return _signed(_hash(*purpose) + _GOLDEN)


def bernoulli(share: float, rows: range, columns: range, width: int, key: Tensor) -> Tensor:
    """[rows, columns] bool, each True with probability `share`; on the device of `key`.

    They are a part of a table whose rows are `width` long. Entry n of the table is number n of
    SplitMix64, computed from its counter. `key` [] int64 holds what the function `key` gives for
    their purpose; as a tensor, it may change between replays of a captured step. torch's generators
    draw other numbers on each kind of device; whole numbers are the same everywhere.
    """
    across = torch.arange(columns.start, columns.stop, device=key.device).mul_(_signed(_GOLDEN))
    down = torch.arange(rows.start, rows.stop, device=key.device)
    z = torch.add(key, down, alpha=_signed(width * _GOLDEN))[:, None] + across
    z.bitwise_xor_((z >> 30).bitwise_and_((1 << 34) - 1)).mul_(_signed(_FIRST))
    z.bitwise_xor_((z >> 27).bitwise_and_((1 << 37) - 1)).mul_(_signed(_SECOND))
    # SplitMix64's last step, z ^ (z >> 31), changes none of the high bits, which decide here.
    return z.le(round(share * 2**64) - 2**63 - 1)


def _hash(*purpose: int | str) -> int:
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _signed(number: int) -> int:
    """The signed 64-bit number that wraps around as `number` does."""
    return (number + 2**63) % 2**64 - 2**63
