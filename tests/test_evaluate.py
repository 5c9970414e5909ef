import numpy as np
import pytest
import torch

from pipeline.loader import NOT_COUNTED, Batch
from train.evaluate import centre_view, error_rates, places_of_labels


def test_ranks_against_sorting():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 12)), rng.integers(0, 12, 50)
    expected = [list(np.argsort(-row)).index(label) for row, label in zip(logits, labels)]
    assert places_of_labels(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected


def test_ties_and_nans_count_against_the_network():
    assert places_of_labels(torch.zeros(1, 10), torch.tensor([3])).tolist() == [9]
    assert places_of_labels(torch.full((1, 10), float("nan")), torch.tensor([3])).tolist() == [9]
    assert places_of_labels(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([2])).tolist() == [1]


class Oracle(torch.nn.Module):
    """Scores class k by the k-th pixel of the first row."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images[:, 0, 0, :8]


def test_error_rates_count_each_image_once():
    """Ranks of the labels: 0, 4, 5, 7 and one row that only fills up the batch."""
    images = torch.zeros(5, 3, 12, 12)
    images[:, 0, 2, 2:10] = torch.arange(8.0).flip(0)
    labels = torch.tensor([0, 4, 5, 7, NOT_COUNTED])
    batches = [Batch(images[:3], labels[:3]), Batch(images[3:], labels[3:])]
    errors = error_rates(Oracle(), batches, 8, lambda counts: counts)
    assert (errors.top1_error, errors.top5_error, errors.num_images) == (3 / 4, 2 / 4, 4)


@pytest.mark.parametrize("size, crop, edge", [(256, 224, 16), (64, 56, 4), (9, 4, 2)])
def test_centre_view(size, crop, edge):
    images = torch.arange(size * size).view(1, 1, size, size)
    assert torch.equal(centre_view(images, crop), images[:, :, edge : edge + crop, edge : edge + crop])
