"""What only GPUs can show. `make gpu-check` runs these tests; elsewhere they are skipped."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_dali.model.alexnet import DropoutMasks
from alexnet_dali.model.layers import PAPER
from alexnet_dali.pipeline.crops import RandomCrop
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Feeder
from alexnet_dali.pipeline.transform import Pixels
from alexnet_dali.tools import prep_imagenet
from alexnet_dali.train.config import load
from alexnet_dali.train.parallel.devices import has_tf32_and_bf16
from alexnet_dali.train.parallel.ranks import join
from alexnet_dali.train.trainer import Trainer
from tests import reference
from tests.feeding import evaluation_plan, plain, training_plan
from tests.images import write_class_folders
from tests.model import test_columns
from tests.prepare.test_awkward import awkward_images
from tests.processes import ROOT
from tests.ranks import run_ranks
from tests.train import test_train

pytestmark = pytest.mark.gpu
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

old = torch.cuda.is_available() and not has_tf32_and_bf16(torch.device("cuda"))
ampere = pytest.mark.skipif(old, reason="needs compute capability 8.0")
PRECISIONS = ["fp32", *(pytest.param(name, marks=ampere) for name in ("tf32", "bf16"))]

recipe, train = test_train.recipe, test_train.train


def feeder(dataset: Dataset, device: str, lit_gain: float = 1.0, **options: Any) -> Feeder:
    crops = RandomCrop(80, 96)
    pixels = Pixels("image", (1.0, 1.0, 1.0), lighting_std=0.1, lit_gain=lit_gain)
    return Feeder(
        dataset.train,
        training_plan(dataset.train, crops, num_steps=6),
        pixels.transform(dataset.stats, crops),
        device=torch.device(device),
        **{"num_threads": 2, **options},
    )


@pytest.fixture
def photographs(dataset):
    """The prepared folder that `make gpu-check DATA=DIR` names, or else generated images."""
    return Dataset.open(Path(os.environ["DATA"])) if os.environ.get("DATA") else dataset


@pytest.mark.parametrize("lit_gain", [1, 1 / 1.1])
def test_the_gpu_graph_gives_nearly_the_cpu_graphs_pixels(photographs, lit_gain):
    """The decoders differ in chroma and rounding, by a level or two.

    Anything more is another crop, flip or colour.
    """
    for cpu, gpu in zip(
        feeder(photographs, "cpu", lit_gain), feeder(photographs, "cuda:0", lit_gain)
    ):
        assert gpu.images.device.type == "cuda" and torch.equal(cpu.labels, gpu.labels.cpu())
        difference = (cpu.images - gpu.images.cpu()).abs()
        assert difference.mean() < 1 and difference.max() < 16


def test_images_that_the_cpu_decodes_for_a_gpu_have_the_cpus_pixels(photographs):
    """But for the GPU's sums, which round in another order."""
    on_gpu = feeder(photographs, "cuda:0", decoder="cpu")
    for cpu, gpu in zip(feeder(photographs, "cpu"), on_gpu, strict=True):
        assert gpu.images.device.type == "cuda" and torch.equal(cpu.labels, gpu.labels.cpu())
        assert (cpu.images - gpu.images.cpu()).abs().max() <= 1


def test_batches_do_not_change_while_later_ones_arrive(dataset):
    """A failure would mean that DALI writes into buffers that torch still reads."""
    # Each is read before the next one arrives
    early = [batch.images.double().sum().item() for batch in feeder(dataset, "cuda:0")]
    kept = list(feeder(dataset, "cuda:0"))
    assert [batch.images.double().sum().item() for batch in kept] == early


def test_pixels_do_not_depend_on_how_many_ranks_share_a_batch(photographs):
    """A failure would mean that DALI decodes part of a batch on other hardware.

    In that case, look at graph.HW_DECODER_LOAD.
    """
    halves = zip(*(feeder(photographs, "cuda:0", shard=shard, num_shards=2) for shard in (0, 1)))
    for whole, parts in zip(feeder(photographs, "cuda:0"), halves, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_unusual_files_have_nearly_the_cpus_pixels(tmp_path):
    """GPU decoders treat each of these kinds of files in its own way.

    They are EXIF with a region, CMYK, grey, 16 bits, progressive, PNG, WebP, BMP and TIFF.
    """
    write_class_folders(tmp_path / "images", {"a": 1, "b": 3})
    awkward_images(tmp_path / "images/a")
    arguments = [
        "--train",
        tmp_path / "images",
        "--val",
        tmp_path / "images",
        "--out",
        tmp_path / "out",
    ]
    prep_imagenet.main([str(argument) for argument in arguments])
    images = Dataset.open(tmp_path / "out").val
    plan = evaluation_plan(images, 64, 5)
    on_cpu, on_gpu = (
        Feeder(images, plan, plain(64), device=torch.device(device)) for device in ("cpu", "cuda:0")
    )
    index = 0
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        for one, other, label in zip(cpu.images, gpu.images.cpu(), cpu.labels):
            if label != IGNORE_INDEX:
                difference = (one - other).abs()
                assert difference.mean() < 2 and difference.max() < 24, images.path(index)
                index += 1


def test_dropout_masks_are_the_same_as_on_the_cpu():
    devices = [torch.device("cpu"), torch.device("cuda")]
    for step in (0, 7, 10**6):
        on_cpu, on_gpu = (
            DropoutMasks(0, step, device, part=1).kept(128, range(2048, 4096), 4096, PAPER[-2])
            for device in devices
        )
        assert torch.equal(on_cpu, on_gpu.cpu())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_never_makes_the_host_wait(precision, recipe, prepared, tmp_path):
    options = [
        "--data.root",
        str(prepared),
        "--run.dir",
        str(tmp_path / "run"),
        "--train.precision",
        precision,
    ]
    with join("cuda") as ranks:
        trainer = Trainer(load([str(recipe), *options, "--train.compile", "true"]), ranks)
        batches = trainer.batches()
        trainer.train_step(next(batches))
        batch = next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.train_step(batch)
            # Otherwise, the line above would prove nothing
            with pytest.raises(RuntimeError, match="synchroniz"):
                trainer.state.sums.sum().item()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_on_a_gpu_follow_the_cpus_step_by_step(precision, train, tmp_path):
    """Images, crops, flips, lighting and dropout are the same; decoders and sums round differently.

    Losses are about 1.1.
    """
    options = ["--run.log_seconds", "0", "--optim.lr", "0.001"]
    assert train(tmp_path / "cpu", *options) == 0
    assert (
        train(tmp_path / "gpu", *options, "--run.device", "cuda", "--train.precision", precision)
        == 0
    )
    on_cpu, on_gpu = (
        [
            line["train/loss"]
            for line in test_train.metrics(tmp_path / device)
            if "train/loss" in line
        ]
        for device in ("cpu", "gpu")
    )
    assert len(on_cpu) == test_train.STEPS
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.05 if precision == "bf16" else 0.02)


def test_one_gpu_trains_like_the_plain_network(expected):
    with join("cuda") as ranks:
        losses, weights = test_columns.train(ranks)
    assert_trained_alike(losses, weights, expected)


@two_gpus
def test_two_columns_over_nccl_train_like_the_plain_network(expected, tmp_path):
    run_ranks(2, train_and_save, tmp_path)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True, map_location="cpu")
        assert_trained_alike(result["losses"], result["weights"], expected)


def test_an_interrupted_run_on_a_gpu_ends_with_the_same_bits(train, tmp_path):
    options = ["--run.device", "cuda"]
    assert train(tmp_path / "whole", *options) == 0
    for stop in ("1", "5", "6"):
        assert train(tmp_path / "pieces", *options, "--run.max_steps", stop) == 0
    assert train(tmp_path / "pieces", *options) == 0
    test_train.assert_same_run(tmp_path / "whole", tmp_path / "pieces")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_a_run_of_replays_has_the_bits_of_one_without(precision, compiled, train, tmp_path):
    """Evaluations, a falling learning rate, watched steps and a resume come between replays."""
    options = ["--run.device", "cuda", "--train.precision", precision, "--train.compile", compiled]
    options += [
        "--optim.schedule",
        "exponential",
        "--run.pictures",
        "true",
        "--run.log_seconds",
        "0",
    ]
    graph = ["--train.cuda_graph", "true"]
    assert train(tmp_path / "eager", *options) == 0
    assert train(tmp_path / "graph", *options, *graph) == 0
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "graph")
    assert train(tmp_path / "pieces", *options, *graph, "--run.max_steps", "8") == 0
    assert train(tmp_path / "pieces", *options, *graph) == 0
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "pieces")


def torchrun(words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *words]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)


@two_gpus
def test_two_columns_over_nccl_replay_the_same_bits(recipe, prepared, tmp_path):
    for name, captured in (("eager", "false"), ("graph", "true")):
        options = ["--run.device", "cuda", "--train.cuda_graph", captured]
        torchrun(test_train.words(recipe, prepared, tmp_path / name, *options))
    test_train.assert_same_run(tmp_path / "eager", tmp_path / "graph")


@two_gpus
def test_two_ranks_over_nccl_run_to_the_end(recipe, prepared, tmp_path):
    torchrun(test_train.words(recipe, prepared, tmp_path / "run", "--run.device", "cuda"))
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
def expected():
    """Losses and weights of the plain network on the CPU."""
    return reference.expected(test_columns.SEED, test_columns.batches(), test_columns.LRS)
