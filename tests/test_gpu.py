"""What only GPUs can show. `make gpu-check` runs these; elsewhere they skip."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dataset import Dataset
from pipeline.loader import Appearance, Loader
from pipeline.plan import TrainingPlan
from tests import reference, test_columns, test_train
from tests.ranks import run_ranks
from train.distributed import join

pytestmark = pytest.mark.gpu
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

recipe, train = test_train.recipe, test_train.train


def loader(dataset: Dataset, device: str, lit_gain: float = 1.0, part: int = 0, num_parts: int = 1) -> Loader:
    appearance = Appearance.of(dataset.stats, 96, 80, "image", 0.1, lit_gain)
    plan = TrainingPlan(len(dataset.train), batch_size=12, margin=16, seed=3, num_steps=6)
    where = torch.device(device)
    rows = 12 // num_parts
    return Loader(
        dataset.train, plan, appearance, part=part, num_parts=num_parts, batch_size=rows, device=where, num_threads=2
    )


@pytest.fixture
def photographs(dataset):
    """The prepared folder that DATA names, as `make gpu-check DATA=DIR` does; generated images without it."""
    return Dataset.open(Path(os.environ["DATA"])) if os.environ.get("DATA") else dataset


@pytest.mark.parametrize("lit_gain", [1, 1 / 1.1])
def test_the_gpu_graph_gives_the_cpu_graphs_pixels(photographs, lit_gain):
    """The decoders differ in chroma and rounding by a level or two; anything more is another crop, flip or colour."""
    for cpu, gpu in zip(loader(photographs, "cpu", lit_gain), loader(photographs, "cuda:0", lit_gain)):
        assert gpu.images.device.type == "cuda" and torch.equal(cpu.labels, gpu.labels.cpu())
        difference = (cpu.images - gpu.images.cpu()).abs()
        assert difference.mean() < 1 and difference.max() < 16


def test_batches_stay_what_they_are_while_later_ones_arrive(dataset):
    """A failure would mean that DALI writes into buffers that torch still reads."""
    early = [batch.images.double().sum().item() for batch in loader(dataset, "cuda:0")]  # each before the next comes
    kept = list(loader(dataset, "cuda:0"))
    assert [batch.images.double().sum().item() for batch in kept] == early


def test_pixels_do_not_depend_on_how_many_share_a_batch(photographs):
    """A failure would mean that DALI decodes part of a batch by other hardware, which rounds otherwise."""
    halves = zip(*(loader(photographs, "cuda:0", part=part, num_parts=2) for part in range(2)))
    for whole, parts in zip(loader(photographs, "cuda:0"), halves, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_one_gpu_trains_like_the_plain_network(expected_on_gpu):
    with join("cuda") as ranks:
        losses, weights = test_columns.train(ranks)
    assert_trained_alike(losses, weights, expected_on_gpu)


@two_gpus
def test_two_columns_over_nccl_train_like_the_plain_network(expected_on_gpu, tmp_path):
    run_ranks(2, train_and_save, tmp_path)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True, map_location="cpu")
        assert_trained_alike(result["losses"], result["weights"], expected_on_gpu)


def test_a_run_in_pieces_is_the_run_in_one_on_a_gpu(train, tmp_path):
    options = ["--run.device", "cuda"]
    assert train(tmp_path / "whole", *options) == 0
    for stop in ("1", "5", "6"):
        assert train(tmp_path / "pieces", *options, "--run.max_steps", stop) == 0
    assert train(tmp_path / "pieces", *options) == 0
    test_train.assert_same_run(tmp_path / "whole", tmp_path / "pieces")


@two_gpus
def test_two_ranks_over_nccl_run_to_the_end(recipe, prepared, tmp_path):
    command = test_train.command(recipe, prepared, tmp_path / "run", "--run.device", "cuda", ranks=2)
    subprocess.run(command, cwd=test_train.ROOT, check=True)
    assert test_train.final_state(tmp_path / "run")["step"] == test_train.STEPS


def train_and_save(folder):
    with join("cuda") as ranks:
        losses, weights = test_columns.train(ranks)
        torch.save({"losses": losses, "weights": weights}, folder / f"{ranks.rank}.pt")


def assert_trained_alike(losses, weights, expected):
    np.testing.assert_allclose(losses, expected[0], atol=1e-10)
    for key, value in expected[1].items():
        torch.testing.assert_close(weights[key].cpu(), value, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def expected_on_gpu():
    """Losses and weights of the plain network on the CPU, with the masks that a GPU draws."""
    return reference.expected(test_columns.SEED, test_columns.batches(), test_columns.LRS, torch.device("cuda"))
