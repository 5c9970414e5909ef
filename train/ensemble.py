"""Several networks as one: their probabilities averaged, with equal weights or searched ones."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from alexnet_dali.train.evaluation import ErrorRates, label_ranks


def mixture(
    probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N, C] from [M, N, C] of M networks and their weights [M], which sum to 1."""
    return np.tensordot(weights, probabilities, axes=1)


def search_weights(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weights [M], none negative, summing to 1, whose mixture makes the labels [N] most likely.

    The logarithm of a mixture is concave in its weights: there is one best, wherever the search
    begins.
    """
    own = probabilities[:, np.arange(len(labels)), labels]

    def loss(free: NDArray[np.float64]) -> float:
        return -float(np.log(np.maximum(softmax(free) @ own, 1e-300)).mean())

    return softmax(
        minimize(loss, np.zeros(len(own)), method="L-BFGS-B", bounds=[(-12, 12)] * len(own)).x
    )


def halves(labels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Every other image of each class [N], to search weights on, and the rest, to judge them by."""
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        first[np.flatnonzero(labels == label)[::2]] = True
    return first, ~first


def rates(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> ErrorRates:
    """Error rates of scores [N, C]."""
    places = label_ranks(torch.from_numpy(scores), torch.from_numpy(labels)).numpy()
    return ErrorRates(float((places >= 1).mean()), float((places >= 5).mean()), len(labels))
