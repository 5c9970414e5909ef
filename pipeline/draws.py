"""Random numbers for the rows of an epoch: a function of (seed, epoch, place), nothing to save.

numpy's generators draw one number after the other. Here each number is computed from its counter,
so a batch draws for its own rows alone, wherever an epoch is entered and however ranks share it.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Increment and multipliers of SplitMix64 (Steele, Lea and Flood, 2014)."""


class Draws:
    """Draws for rows at some `places` of an epoch, n of them; equal places draw equal numbers.

    Each purpose has numbers of its own: one that is added changes no other.
    """

    def __init__(self, seed: int, epoch: int, places: NDArray[np.int64], scope: str = "") -> None:
        """Purposes of another `scope` are others."""
        self._seed, self.epoch, self._places, self._scope = seed, epoch, places, scope

    def __len__(self) -> int:
        return len(self._places)

    def of(self, rows: NDArray[np.int64]) -> "Draws":
        """The draws of some of the rows."""
        return Draws(self._seed, self.epoch, self._places[rows], self._scope)

    def of_views(self, count: int) -> "Draws":
        """The draws of `count` views of each row, one after the other."""
        places = (self._places[:, None] * count + np.arange(count)).ravel()
        return Draws(self._seed, self.epoch, places, self._scope)

    def within(self, scope: str) -> "Draws":
        """Draws whose purposes are those of `scope`: no other's numbers are among them."""
        return Draws(self._seed, self.epoch, self._places, f"{scope}: ")

    def uniform(self, purpose: str, count: int) -> NDArray[np.float64]:
        """[n, count] numbers, uniform in [0, 1)."""
        key = hashlib.blake2b(
            repr((self._seed, self.epoch, self._scope + purpose)).encode(), digest_size=8
        )
        counters = self._places[:, None] * count + np.arange(1, count + 1)
        z = counters.view(np.uint64) * _GOLDEN
        z += np.uint64(int.from_bytes(key.digest(), "little"))
        z ^= z >> np.uint64(30)
        z *= _FIRST
        z ^= z >> np.uint64(27)
        z *= _SECOND
        z ^= z >> np.uint64(31)
        return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, purpose: str, count: int) -> NDArray[np.float64]:
        """[n, count] standard normal numbers (Box and Muller, 1958)."""
        drawn = self.uniform(purpose, 2 * count)
        first, second = drawn[:, :count], drawn[:, count:]
        return np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)
