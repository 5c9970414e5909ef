"""Disks that are full or read-only, and a folder that is removed."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, Run, sources


@contextlib.contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A disk of its own, mounted on `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
    try:
        yield
    finally:
        _unmount(folder)


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Whatever opens a file in `folder` finds it on a disk that is read-only."""
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        _unmount(folder)


def _mount(*words: object) -> None:
    """PermissionError where this process may not mount."""
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"not tried, as it needs root: {done.stderr.strip()}")


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(bench: Bench, times: int) -> Iterator[Outcome]:
    """The disk is full when a checkpoint is due; room is made, and the run goes on."""
    for _ in range(times):
        with _small_disk(bench.folder / "full", 8):
            run = bench.start("full", ranks=1)
            run.wait_for("step 10/")
            filling = bench.folder / "full/filling"
            with contextlib.suppress(OSError), open(filling, "wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
            run.wait()
            filling.unlink()
            yield Outcome(bench.lost("full", 1), run.message())


def read_only(bench: Bench, times: int) -> Iterator[Outcome]:
    """The run's disk becomes read-only; it is mended, and the run goes on."""
    for _ in range(times):
        folder = bench.folder / "read-only"
        shutil.rmtree(folder, ignore_errors=True)
        run = bench.start("read-only", ranks=1)
        run.wait_for("step 10/")
        with _read_only(folder):
            run.wait()
        yield Outcome(bench.lost("read-only", 1), run.message())


def removed_folder(bench: Bench, times: int) -> Iterator[Outcome]:
    """The run's folder is removed while it runs: it ends with a message, and begins afresh."""
    for _ in range(times):
        shutil.rmtree(bench.folder / "removed", ignore_errors=True)
        run = bench.start("removed", ranks=1)
        run.wait_for("step 10/")
        shutil.rmtree(bench.folder / "removed")
        run.wait()
        yield Outcome(bench.lost("removed", 1), run.message())


def full_disk_while_preparing(bench: Bench, times: int) -> Iterator[Outcome]:
    """The disk is full while images are stored; room is made, and it goes on."""
    for _ in range(times):
        with _small_disk(bench.folder / "small", 2):
            command = ["-m", "alexnet_dali.tools", "prep", *sources(bench.folder / "images")]
            command += ["--resize", "128", "--out", str(bench.folder / "small/out")]
            saw = Run(bench.folder / "small-prep", command)
            saw.wait()
            _mount("-o", "remount,size=64m", bench.folder / "small")
            said = Run(bench.folder / "small-prep", command).wait()
            yield Outcome("nothing" if "0 files rejected" in said else said[-200:], saw.message())
