"""Preparations that are killed, and two of them at the same time."""

import contextlib
import shutil
import time
from collections.abc import Iterator

import psutil

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, Run, sources


def two_at_once(bench: Bench, times: int) -> Iterator[Outcome]:
    """A second preparation of the same folder: it is refused, and the first goes on."""
    for _ in range(times):
        out = bench.folder / "prepared-twice"
        shutil.rmtree(out, ignore_errors=True)
        command = ["-m", "alexnet_dali.tools", "prep", *sources(bench.folder / "images")]
        command += ["--out", str(out)]
        runs = [Run(out, command) for _ in range(2)]
        for run in runs:
            run.wait()
        refused = [run for run in runs if run.process.returncode]
        same = Dataset.open(out).fingerprint == Dataset.open(bench.prepared).fingerprint
        yield Outcome(
            "nothing" if same and len(refused) == 1 else f"{len(refused)} of two were refused",
            refused[0].message() if refused else "",
        )


def killed(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGKILL to a preparation and all its workers."""
    out = bench.folder / "prepared-killed"
    command = [
        "-m",
        "alexnet_dali.tools",
        "prep",
        *sources(bench.folder / "images"),
        "--out",
        str(out),
    ]
    for _ in range(times):
        shutil.rmtree(out, ignore_errors=True)
        run = Run(out, command)
        run.wait_until((bench.folder / ".prepared-killed.unfinished").exists)
        time.sleep(bench.random.uniform(0, 2))
        if run.process.poll() is None:
            for one in psutil.Process(run.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    one.kill()
            run.kill_all()
        again = Run(out, command)
        again.wait()
        same = Dataset.open(out).fingerprint == Dataset.open(bench.prepared).fingerprint
        saw = again.said().strip().splitlines()[-1].replace(f"{bench.folder}/", "")
        yield Outcome("nothing" if same else "other files", saw)
