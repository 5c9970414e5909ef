"""A state names orders, crops and augmentations by what they are, in every process alike."""

import functools
import json
import operator
import random
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from alexnet_dali.pipeline import CentreCrop, DataLoader, RandomResizedCrop
from alexnet_dali.pipeline.identity import identity
from tests.processes import ROOT


def powered(power, rng, labels):
    return rng.permutation(len(labels))


def made(power):
    def order(rng, labels):
        return rng.permutation(len(labels)) if power else np.arange(len(labels))

    return order


def defaulting(power):
    def order(rng, labels, power=power, *, size=power + 1):
        return rng.permutation(len(labels))

    return order


def of_a_local_class():
    class Order:
        def __call__(self, rng, labels):
            return labels

    return Order()


class Weighted:
    """An order that is an object, with the `repr` that Python gives it."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, rng, labels):
        return rng.permutation(len(labels))

    def method(self, rng, labels):
        return np.arange(len(labels))


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


class Middle:
    """Crops of one's own, as a class with state."""

    resize, views = 32, 1

    def __init__(self, size):
        self.size = size

    def draw(self, draws, sizes):
        return CentreCrop(self.size, self.size).draw(draws, sizes)


@dataclass(frozen=True)
class Nested:
    order: object
    more: tuple = ()


def options():
    """By name, what differs from all others, made anew at each call."""
    weights = np.arange(6.0)
    return {
        "function": powered,
        "other function": made,
        "partial": functools.partial(powered, 2),
        "other partial": functools.partial(powered, 3),
        "by keyword": functools.partial(powered, power=2),
        "closure": made(2),
        "other closure": made(0),
        "defaults": defaulting(1),
        "other defaults": defaulting(2),
        "object": Weighted(weights),
        "other object": Weighted(weights + 1),
        "as float32": Weighted(weights.astype(np.float32)),
        "another shape": Weighted(weights.reshape(2, 3)),
        "a tensor": Weighted(torch.arange(6)),
        "a layer": Weighted(torch.ones(2, requires_grad=True)),
        "method": Weighted(weights).method,
        "slots": Slotted(3),
        "other slots": Slotted(4),
        "crops": Middle(32),
        "other crops": Middle(40),
        "built in": RandomResizedCrop(32),
        "nested": Nested(functools.partial(powered, 2), ({"a": {1, 2, 3}}, [None, "x", 1.5])),
        "other nested": Nested(functools.partial(powered, 2), ({"a": {1, 2, 4}}, [None, "x"])),
        "a builtin": operator.itemgetter,
        "one": 1,
        "true": True,
        "text": "1",
    }


def names():
    return {name: identity("order", option) for name, option in options().items()}


def test_equal_options_have_equal_names_and_others_other_ones():
    found = names()
    assert found == names() and len(set(found.values())) == len(found)
    assert not any("0x" in name for name in found.values())
    assert found["partial"] == f"partial({__name__}.powered)(2)"


@pytest.mark.slow
def test_names_are_the_same_in_another_process():
    script = f"import json; from {__name__} import names; print(json.dumps(names()))"
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert json.loads(process.stdout) == names()


def holding_itself():
    option = Weighted(None)
    option.weights = [option]
    return option


@pytest.mark.parametrize(
    "option, why",
    [
        (lambda rng, labels: labels, "order is a lambda"),
        (functools.partial(lambda power, rng, labels: labels, 2), "order is a lambda"),
        (Weighted(lambda: 3), "order, weights is a lambda"),
        (made(lambda: 3), "order, power is a lambda"),
        (np.random.default_rng(0).permutation, "order is Generator"),
        (Weighted(np.array([object()])), "order, weights is an array of Python objects"),
        (Weighted(iter([])), "order, weights is <list_iterator"),
        (Weighted(random.Random(1)), "order, weights is <random.Random"),
        (of_a_local_class(), "order is of Order, a class that is made in a function"),
        (holding_itself(), "order, weights, 0 holds itself"),
    ],
    ids=range(10),
)
def test_what_can_not_be_compared_is_an_error_that_shows_a_way(option, why):
    with pytest.raises(ValueError, match=why) as error:
        identity("order", option)
    assert "order.state_name =" in str(error.value)


def test_a_name_that_the_user_gives_stands_for_all():
    def order(rng, labels):
        return labels

    one, other = Weighted(lambda: 3), Weighted(lambda: 4)
    order.state_name = one.state_name = other.state_name = "mine"
    assert identity("order", one) == identity("order", other) == identity("order", order)
    other.state_name = "another"
    assert identity("order", one) != identity("order", other)


def loader(folder, **more):
    return DataLoader(folder, global_batch_size=4, **{"crops": Middle(32), **more})


def test_a_loader_resumes_with_an_order_and_crops_of_ones_own(prepared):
    for order in ("partial", "closure", "object", "method"):
        state = json.loads(json.dumps(loader(prepared, order=options()[order]).state_dict()))
        loader(prepared, order=options()[order]).load_state_dict(state)
        with pytest.raises(ValueError, match="order was"):
            loader(prepared, order=options()["other partial"]).load_state_dict(state)
        with pytest.raises(ValueError, match="crops was"):
            again = loader(prepared, order=options()[order], crops=Middle(40))
            again.load_state_dict(state)


def test_a_loader_without_a_comparable_order_has_no_state_but_works(prepared):
    unnamed = loader(prepared, order=lambda rng, labels: np.arange(8))
    assert len(list(unnamed)) == 2
    for ask in (unnamed.state_dict, lambda: unnamed.load_state_dict({})):
        with pytest.raises(ValueError, match="order is a lambda"):
            ask()
