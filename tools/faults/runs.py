"""Runs to break: started, watched, ended, and compared with a run that nothing happened to."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from alexnet_dali.tools import ROOT
from alexnet_dali.train.checkpoints import checkpoint

RECIPE = """
data: {resize: 64, crop: 56}
model: {kernels: [8, 12, 16, 16, 12], conv1_size: 5, conv1_stride: 2, fc_width: 24}
optim: {lr: 0.02, schedule: multistep, milestones: [4]}
train: {batch_size: 24, epochs: 6, compile: false}
run: {log_seconds: 0, device: cpu, checkpoint_minutes: 0.01, watchdog_seconds: 8,
  keep_checkpoints: 3}
"""
_PATIENCE = 300.0


@dataclass
class Bench:
    """A folder with prepared images, and runs over them."""

    folder: Path
    random: random.Random
    reference: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def prepared(self) -> Path:
        """The images."""
        return self.folder / "prepared"

    def prepare(self) -> None:
        """Generate images, and prepare them."""
        images = self.folder / "images"
        _command("-m", "alexnet_dali.tools", "make-images", images, "--train", 480, "--val", 60)
        _command("-m", "alexnet_dali.tools", "prep", *sources(images), "--out", self.prepared)
        (self.folder / "tiny.yaml").write_text(RECIPE)

    def start(
        self, name: str, *options: object, ranks: int = 2, torchrun: tuple[str, ...] = ()
    ) -> "Run":
        """Start a training in the folder `name`, or resume it."""
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        launch += list(torchrun or ["--standalone"])
        command: list[object] = [
            *(launch if ranks > 1 or torchrun else []),
            "-m",
            "alexnet_dali.train",
        ]
        command += [self.folder / "tiny.yaml", "--data.root", self.prepared]
        command += ["--run.dir", self.folder / name, *options]
        return Run(self.folder / name, list(map(str, command)))

    def finish(self, name: str, *options: object, ranks: int = 2) -> str:
        """Run to the end; returns what was printed."""
        return self.start(name, *options, ranks=ranks).wait()

    def expected(self, ranks: int = 2) -> dict[str, Any]:
        """What a run ends with that nothing happens to."""
        if ranks not in self.reference:
            name = f"reference-{ranks}"
            self.finish(name, ranks=ranks)
            self.reference[ranks] = last_state(self.folder / name)
        return self.reference[ranks]

    def lost(self, name: str, ranks: int = 2) -> str:
        """Finish the run, and say what it lost against one that nothing happened to."""
        said = self.finish(name, ranks=ranks)
        if "finished" not in said:
            return f"the run: {said.splitlines()[-1] if said else 'it said nothing'}"
        return difference(last_state(self.folder / name), self.expected(ranks))

    def copy(self, name: str, to: str) -> Path:
        """A copy of a run's folder, to damage."""
        shutil.rmtree(self.folder / to, ignore_errors=True)
        shutil.copytree(self.folder / name, self.folder / to)
        return self.folder / to


class Run:
    """A command that runs, with what it prints in one file."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self._log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def said(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait(self) -> str:
        """Wait for its end; returns what it printed."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill_all()
        return self.said()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for something to happen, or for the run's end."""
        until = time.monotonic() + _PATIENCE
        while not happened() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)

    def wait_for(self, words: str) -> None:
        """Wait until it prints these words."""
        self.wait_until(lambda: words in self.said())

    def ranks(self) -> list[psutil.Process]:
        """Its ranks, in order."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            found = {int(one.environ()["RANK"]): one for one in children if _is_rank(one)}
        except psutil.Error:
            return []
        return [found[rank] for rank in sorted(found)]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself: torchrun, or the only process."""
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL to the command and to all that it has started."""
        processes = [*self.ranks(), psutil.Process(self.process.pid)]
        for one in processes:
            one.kill()
        self.process.wait()

    def message(self) -> str:
        """The last line for the user."""
        lines = [line.strip() for line in self.said().splitlines()]
        marks = ("error:", "warning:", "stopped by", "finished", "resuming from", "made:")
        found = [line for line in lines if line.startswith(marks)]
        return found[-1].replace(str(self.folder.parent) + "/", "") if found else ""


def last_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's weights, momentum and step."""
    state = checkpoint.load(checkpoint.named(folder))
    return {key: state[key] for key in ("step", "model", "momentum")}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """What differs from the expected state; `nothing` where every bit is the same."""
    if found["step"] != expected["step"]:
        return f"step {found['step']} in place of {expected['step']}"
    differing = [
        f"{part}.{name}"
        for part in ("model", "momentum")
        for name, value in expected[part].items()
        if not torch.equal(found[part][name], value)
    ]
    return f"{len(differing)} tensors differ" if differing else "nothing"


def sources(images: Path) -> list[str]:
    """Where preparation finds the images."""
    return ["--train", str(images / "train"), "--val", str(images / "val")]


def _is_rank(process: psutil.Process) -> bool:
    return "RANK" in process.environ() and "torch.distributed.run" not in process.cmdline()


def _command(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, capture_output=True)
