"""The examples run as they are written, and the network resumes as promised."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCHVISION = """
from torch import nn
def get_model(name, num_classes):
    assert name == "small"
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


@pytest.fixture
def environment(tmp_path):
    """With a small stand-in for torchvision, whose networks take minutes on a CPU."""
    (tmp_path / "path/torchvision").mkdir(parents=True)
    (tmp_path / "path/torchvision/__init__.py").write_text("from torchvision import models\n")
    (tmp_path / "path/torchvision/models.py").write_text(TORCHVISION)
    paths = [str(tmp_path / "path"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def start(prepared, run, environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [
        "examples/resnet.py",
        "--data",
        str(prepared),
        "--checkpoint",
        str(run / "network.pt"),
    ]
    command += ["--model", "small", "--size", "64", "--batch", "8", "--epochs", "2"]
    return subprocess.Popen(
        [*command, "--save-every", "2"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def losses(process, kill_at=None):
    """The lines that the run prints, by step or epoch; it is killed where it comes to `kill_at`."""
    found = {}
    for line in process.stdout:
        words = line.split()
        if words[:1] in (["step"], ["epoch"]):
            found[" ".join(words[:2])] = words[2:]
        if kill_at is not None and line.startswith(f"step {kill_at} "):
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
    process.wait(120)
    return found


def children(pid):
    """A process and all that it has started: torchrun's ranks are in sessions of their own."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in listed for below in children(int(child)))]


def test_a_network_of_torchvision_resumes_with_the_same_losses(prepared, tmp_path, environment):
    whole = losses(start(prepared, tmp_path / "whole", environment))
    assert len(whole) == 2 * (42 // 8) + 2 and "epoch 2:" in whole
    resumed = losses(start(prepared, tmp_path / "killed", environment), kill_at=7)
    assert "epoch 1:" in resumed and "epoch 2:" not in resumed
    resumed |= losses(start(prepared, tmp_path / "killed", environment))
    assert resumed == whole


def test_a_plan_of_ones_own_balances_the_classes(prepared, environment):
    result = subprocess.run(
        [sys.executable, "examples/own_plan.py", str(prepared)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    counts = [int(word) for word in result.stdout.split("[")[2].rstrip("]\n").split()]
    assert sum(counts) == 64 and min(counts) > 10
