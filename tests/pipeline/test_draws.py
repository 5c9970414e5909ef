"""Random numbers of rows, against an independent SplitMix64 and the tests of statistics."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from alexnet_dali.pipeline.draws import Draws
from tests.reference import split_mix


def draws(places, seed=5, epoch=2):
    return Draws(seed, epoch, np.asarray(places, np.int64))


def test_numbers_are_those_of_split_mix_one_after_the_other():
    """Row p of `count` numbers has numbers p * count to (p + 1) * count - 1 of a sequence."""
    key = hashlib.blake2b(repr((5, 2, "crop")).encode(), digest_size=8).digest()
    sequence = split_mix(int.from_bytes(key, "little"), 4000).reshape(1000, 4)
    expected = (sequence >> np.uint64(11)) / 2.0**53
    places = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(draws(places).uniform("crop", 4), expected[places])


def test_uniform_and_normal_numbers_are_so_and_independent():
    """By the test of Kolmogorov and Smirnov, column by column."""
    many = draws(np.arange(50_000))
    for numbers, expected in (
        (many.uniform("a", 3), stats.uniform.cdf),
        (many.normal("b", 3), stats.norm.cdf),
    ):
        assert numbers.shape == (50_000, 3)
        for column in numbers.T:
            assert stats.kstest(column, expected).pvalue > 0.001
        correlations = np.corrcoef(np.hstack([numbers, np.roll(numbers, 1, axis=0)]).T)
        assert np.abs(correlations - np.eye(6)).max() < 5 / np.sqrt(50_000)
    assert many.uniform("a", 3).min() >= 0 and many.uniform("a", 3).max() < 1


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_numbers_depend_on_seed_epoch_place_and_purpose_alone(kind):
    def numbers(made, purpose="crop"):
        return getattr(made, kind)(purpose, 2)

    whole = draws(np.arange(100))
    expected = numbers(whole)
    numbers(whole, "another purpose")  # what else is drawn changes nothing
    np.testing.assert_array_equal(numbers(whole), expected)
    np.testing.assert_array_equal(numbers(draws(np.arange(40, 60))), expected[40:60])
    np.testing.assert_array_equal(numbers(whole.of(np.array([7, 3]))), expected[[7, 3]])
    for other in (
        numbers(whole, "flip"),
        numbers(draws(np.arange(100), seed=6)),
        numbers(draws(np.arange(100), epoch=3)),
        numbers(draws(np.arange(100, 200))),
    ):
        assert not np.isin(other, expected).any()


def test_places_far_out_are_drawn_for_as_others_are():
    far = draws([10**12, 10**12 + 1]).uniform("crop", 2)
    assert (far >= 0).all() and (far < 1).all() and len(np.unique(far)) == 4
