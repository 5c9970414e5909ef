"""What makes weights look as if nobody had trained them: what can be said without an image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEAST_CORRELATION = 0.1
"""Of neighbouring weights in conv1. Draws have 0 (96 kernels: +-0.004); after one epoch of ten
classes of photographs, this network had 0.44."""


def doubts(weights: Mapping[str, NDArray]) -> list[str]:
    """Why the whole network's weights can't be those of a trained one, in words."""
    infinite = [name for name, own in weights.items() if not np.isfinite(own).all()]
    if infinite:
        return [f"{', '.join(infinite)}: some are not finite, so its answers mean nothing"]
    constant = [
        name for name, own in weights.items() if name.endswith("weight") and np.ptp(own) == 0
    ]
    found = []
    if constant:
        found.append(f"{', '.join(constant)}: all numbers are equal, as in a file made for tests")
    if "conv1.weight" not in constant:
        share = _correlation(weights["conv1.weight"])
        if share < LEAST_CORRELATION:
            found.append(
                f"conv1's neighbouring weights correlate by {share:.2f}, as random ones do (about "
                "0); a trained network's kernels are smooth: its answers are likely at chance"
            )
    return found


def _correlation(kernels: NDArray) -> float:
    """That of weights beside or below each other, about 0."""
    own = kernels.astype(np.float64)
    across, down = own[..., 1:] * own[..., :-1], own[..., 1:, :] * own[..., :-1, :]
    return float((across.mean() + down.mean()) / 2 / np.square(own).mean())
