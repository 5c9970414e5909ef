"""Dropout's random numbers: they are those of SplitMix64, and they look random.

The masks must be the same however the work is split. Statistical tests look at rows, columns, steps
and layers.
"""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from alexnet_dali.model import randomness
from alexnet_dali.model.alexnet import DropoutMasks
from alexnet_dali.model.layers import Linear
from alexnet_dali.model.randomness import key
from tests.reference import mask, split_mix

CPU = torch.device("cpu")
WHOLE = (range(512), range(4096), 4096)


def bernoulli(share, rows, columns, width, *purpose):
    return randomness.bernoulli(share, rows, columns, width, torch.tensor(key(*purpose)))


def test_the_reference_is_the_published_generator():
    """The first outputs for seed 1234567, as Rosetta Code lists them."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert split_mix(1234567, 5).tolist() == expected


@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.5, 0.9])
def test_masks_equal_the_reference_however_the_work_is_split(dropout):
    whole = mask(12, 10, dropout, 3, "dropout", 7, 6).bool()
    for num_parts in (1, 2, 3):
        for column in range(2):
            rows = 12 // num_parts
            neurons = range(5 * column, 5 * column + 5)
            own = [
                DropoutMasks(3, 7, CPU, part).kept(rows, neurons, 10, Linear("fc6", 10, dropout))
                for part in range(num_parts)
            ]
            assert torch.equal(torch.cat(own), whole[:, neurons.start : neurons.stop])


def test_masks_of_another_step_come_from_the_same_tensors():
    """A captured step is replayed with other masks: nothing but the keys may change."""
    layers = [Linear("fc6", 10, 0.5), Linear("fc7", 10, 0.5)]
    masks = DropoutMasks(3, 0, CPU)
    keys = {number: own.data_ptr() for number, own in masks.keys.items()}
    for step in (1, 2**31, 10**12):
        masks.set_step(step)
        assert {number: own.data_ptr() for number, own in masks.keys.items()} == keys
        for layer in layers:
            expected = mask(12, 10, 0.5, 3, "dropout", step, layer.number).bool()
            assert torch.equal(masks.kept(12, range(10), 10, layer), expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_shares_are_right_overall_and_in_rows_and_columns(share):
    """The counts of rows and columns are binomial.

    Their squared and scaled deviations sum to a chi-square variable. It has as many degrees of
    freedom as there are rows or columns.
    """
    draws = bernoulli(share, *WHOLE, "shares").numpy()
    deviation = (draws.mean() - share) / np.sqrt(share * (1 - share) / draws.size)
    assert abs(deviation) < 4
    for axis in (0, 1):
        length = draws.shape[axis]
        z = (draws.sum(axis) - length * share) / np.sqrt(length * share * (1 - share))
        assert abs((z**2).sum() - len(z)) < 4 * np.sqrt(2 * len(z))


def test_neighbours_rows_steps_layers_and_seeds_are_uncorrelated():
    """The share of equal entries is one half, within four standard deviations."""
    draws = bernoulli(0.5, *WHOLE, 0, "dropout", 5, 6)
    pairs = {
        "next neuron": (draws[:, 1:], draws[:, :-1]),
        "other column's neuron": (draws[:, :2048], draws[:, 2048:]),
        "next row": (draws[1:], draws[:-1]),
        "row of another pair": (draws[:256], draws[256:]),
        "diagonal": (draws[1:, 1:], draws[:-1, :-1]),
        **{
            name: (draws, bernoulli(0.5, *WHOLE, *purpose))
            for name, purpose in {
                "next step": (0, "dropout", 6, 6),
                "next layer": (0, "dropout", 5, 7),
                "next seed": (1, "dropout", 5, 6),
            }.items()
        },
    }
    for name, (one, other) in pairs.items():
        equal = (one == other).double().mean().item()
        assert abs(equal - 0.5) < 4 * 0.5 / np.sqrt(one.numel()), name


def test_all_words_of_eight_neighbours_are_equally_frequent():
    """Chi-square over all 256 words, along rows and along columns."""
    draws = bernoulli(0.5, *WHOLE, "words").numpy()
    for table in (draws, draws.T):
        words = np.packbits(table.reshape(-1, 8), axis=1).ravel()
        assert chisquare(np.bincount(words, minlength=256)).pvalue > norm.sf(4)


def test_one_neuron_over_many_steps_is_a_fair_coin():
    steps = [
        bernoulli(0.5, range(3, 4), range(17, 18), 4096, 0, "dropout", step, 6).item()
        for step in range(4000)
    ]
    runs = np.count_nonzero(np.diff(steps))
    assert abs(sum(steps) - 2000) < 4 * np.sqrt(1000) and abs(runs - 2000) < 4 * np.sqrt(1000)
