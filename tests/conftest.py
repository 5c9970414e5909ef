import os
from pathlib import Path

import pytest
import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.train.__main__ import main
from tests import processes
from tests.images import prepare
from tests.recipes import TINY

processes.preload()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A prepared folder: 3 classes with 14 training and 5 validation images each."""
    return prepare(
        tmp_path_factory.mktemp("data"), dict.fromkeys("abc", 14), dict.fromkeys("abc", 5)
    )


@pytest.fixture(scope="session")
def dataset(prepared) -> Dataset:
    return Dataset.open(prepared)


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """The folder of a finished run of a tiny network."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    arguments = ["--data.root", prepared, "--run.dir", folder / "run", "--run.max_steps", "4"]
    arguments += ["--run.pictures", "true"]
    assert main([str(folder / "tiny.yaml"), *map(str, arguments)]) == 0
    return folder / "run"


def pytest_configure(config):
    """Hide GPUs from ordinary tests, which run on the CPU on every machine.

    `-m gpu` runs the tests that need a GPU.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    why = None if torch.cuda.is_available() else "no GPU here"
    if config.option.markexpr != "gpu":
        why = "GPU tests run with -m gpu, as `make gpu-check` does"
    for item in items:
        if why and "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=why))
