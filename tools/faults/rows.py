"""The faults: each breaks a run in one way, and tells what was lost and what the user saw."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.dataset import Dataset
from tools.faults.runs import Bench, Run, difference, last_state, sources
from train import checkpoint


class Outcome(NamedTuple):
    """Of one trial: what was lost, `nothing` if all is as it should be, and what was seen."""

    lost: str
    saw: str


class Fault(NamedTuple):
    """A kind of fault: its name, how to try it, and how often."""

    name: str
    trials: Callable[[Bench, int], Iterator[Outcome]]
    times: int


def _interrupted(
    bench: Bench, name: str, times: int, strike: Callable[[Run], None], wait: float = 12.0
) -> Iterator[Outcome]:
    """Strike a run at random moments, again and again, and finish it; then a new one."""
    struck = 0
    while struck < times:
        shutil.rmtree(bench.folder / name, ignore_errors=True)
        seen: list[str] = []
        while struck + len(seen) < times:
            run = bench.start(name)
            run.wait_for("ranks:")
            time.sleep(bench.random.uniform(0, wait / 4))
            if run.process.poll() is not None:
                break
            strike(run)
            if "finished" in run.wait():  # it was over before the blow
                break
            seen.append(run.message())
        lost = bench.lost(name)
        for saw in seen:
            struck += 1
            yield Outcome(lost, saw)


def killed_rank(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGKILL to a random rank."""

    def strike(run: Run) -> None:
        if ranks := run.ranks():
            bench.random.choice(ranks).kill()

    return _interrupted(bench, "killed-rank", times, strike)


def killed_torchrun(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGKILL to torchrun, whose ranks save and end by themselves."""

    def strike(run: Run) -> None:
        ranks = run.ranks()
        run.signal(signal.SIGKILL)
        psutil.wait_procs(ranks, timeout=60)

    return _interrupted(bench, "killed-torchrun", times, strike)


def killed_all(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGKILL to torchrun and all ranks: as when a machine loses power."""
    return _interrupted(bench, "killed-all", times, Run.kill_all)


def signalled(*numbers: signal.Signals) -> Callable[[Bench, int], Iterator[Outcome]]:
    """The signals to torchrun, one after another."""

    def trials(bench: Bench, times: int) -> Iterator[Outcome]:
        def strike(run: Run) -> None:
            for number in numbers:
                if run.process.poll() is None:
                    run.signal(number)
                time.sleep(0.3)

        name = "signalled-" + "-".join(number.name for number in numbers)
        return _interrupted(bench, name, times, strike)

    return trials


def restarted(bench: Bench, times: int) -> Iterator[Outcome]:
    """`torchrun --max-restarts`: killed ranks are started again without anybody's help."""
    options = ("--standalone", f"--max-restarts={times}")
    run = bench.start("restarted", torchrun=options)
    for number in range(times):
        run.wait_until(lambda number=number: run.said().count("ranks:") > number)  # type: ignore[misc]
        time.sleep(bench.random.uniform(0, 2))
        if ranks := run.ranks():
            bench.random.choice(ranks).kill()
    said = run.wait()
    lost = difference(last_state(run.folder), bench.expected())
    starts = said.count("ranks:")
    for _ in range(times):
        yield Outcome(lost, f"{run.message()} (after {starts} starts)")


def hang(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGSTOP to a rank: it is named, and the run ends."""
    for _ in range(times):
        shutil.rmtree(bench.folder / "hang", ignore_errors=True)
        run = bench.start("hang")
        run.wait_for("step 5/")
        stopped = bench.random.choice(run.ranks())
        rank = stopped.environ()["RANK"]
        stopped.suspend()
        run.wait()
        said = run.message()
        named = f"rank {rank} on" in said and "is silent" in said
        lost = bench.lost("hang") if named else "it was not named"
        yield Outcome(lost, said)


def damaged_checkpoint(
    damage: Callable[[Bench, Path], None],
) -> Callable[[Bench, int], Iterator[Outcome]]:
    """The newest checkpoint is damaged; the run goes on from the one before."""

    def trials(bench: Bench, times: int) -> Iterator[Outcome]:
        shutil.rmtree(bench.folder / "stopped", ignore_errors=True)
        bench.finish("stopped", "--run.max_steps", 30, ranks=1)
        for _ in range(times):
            folder = bench.copy("stopped", "damaged")
            newest = checkpoint.newest(folder / "checkpoints")
            assert newest is not None
            damage(bench, newest)
            run = bench.start("damaged", ranks=1)
            said = run.wait()
            warned = [line for line in said.splitlines() if line.startswith(("warning:", "error:"))]
            saw = warned[0].replace(f"{bench.folder}/", "") if warned else ""
            lost = difference(last_state(folder), bench.expected(1)) if saw else "its name"
            yield Outcome(lost, saw)

    return trials


def _truncate(bench: Bench, path: Path) -> None:
    os.truncate(path, bench.random.randrange(1, path.stat().st_size))


def _empty(bench: Bench, path: Path) -> None:
    os.truncate(path, 0)


def _flip(bench: Bench, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
    path.write_bytes(content)


def _make_folder(bench: Bench, path: Path) -> None:
    path.unlink()
    path.mkdir()


def flipped_bits(bench: Bench, times: int) -> Iterator[Outcome]:
    """A bit of a checkpoint flips; it must be found before anything is loaded."""
    bench.expected(1)
    folder = bench.copy("reference-1", "flipped")
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    sound = newest.read_bytes()
    for _ in range(times):
        newest.write_bytes(sound)
        _flip(bench, newest)
        try:
            last_state(folder)
            yield Outcome("the flip was not found", "")
        except ValueError as error:
            yield Outcome("nothing", "error: " + str(error).replace(f"{bench.folder}/", ""))


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
            command = ["-m", "tools.prep_imagenet", *sources(bench.folder / "images")]
            command += ["--resize", "128", "--out", str(bench.folder / "small/out")]
            saw = Run(bench.folder / "small-prep", command)
            saw.wait()
            _mount("-o", "remount,size=64m", bench.folder / "small")
            said = Run(bench.folder / "small-prep", command).wait()
            yield Outcome("nothing" if "0 files rejected" in said else said[-200:], saw.message())


def bad_images(bench: Bench, times: int) -> Iterator[Outcome]:
    """Images become text, noise, stumps or smaller while the run goes on."""
    whole = bench.prepared
    for trial in range(times):
        copy = bench.folder / "bad"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(bench.folder / "bad-run", ignore_errors=True)
        shutil.copytree(bench.folder / "images", copy / "images")
        shutil.copytree(whole, copy / "prepared")
        about = copy / "prepared/dataset.yaml"
        about.write_text(about.read_text().replace(f"{bench.folder}/images", f"{copy}/images"))
        images = Dataset.open(copy / "prepared").train
        options = ("--data.root", copy / "prepared", "--data.most_bad_images", 0.9)
        run = bench.start("bad-run", *options, ranks=1 + trial % 2)
        run.wait_for("step 10/")
        damaged = bench.random.sample(range(len(images)), bench.random.randrange(1, 400))
        for index in damaged:
            path = Path(images.path(index))
            content = path.read_bytes()
            noise, stump = bench.random.randbytes(len(content)), content[: len(content) // 3]
            path.write_bytes(bench.random.choice([b"text\n" * 99, noise, stump]))
        said = run.wait()
        listed = (bench.folder / "bad-run/bad_images.txt").read_text().splitlines()
        names = {line.split("\t")[1] for line in listed}
        named = names <= {images.path(index) for index in damaged}
        ends = "finished" in said and run.process.returncode == 0
        warning = next((line for line in said.splitlines() if line.startswith("warning:")), "")
        yield Outcome(
            "nothing" if named and ends else f"the run: {run.message()}",
            warning.replace(f"{bench.folder}/", ""),
        )


def cut_shard(bench: Bench, times: int) -> Iterator[Outcome]:
    """A shard is cut short while the run reads it."""
    for trial in range(times):
        out = bench.folder / "shards"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(bench.folder / "shard-run", ignore_errors=True)
        command = ["-m", "tools.prep_imagenet", *sources(bench.folder / "images"), "--resize", "64"]
        Run(out, [*command, "--shards", "--out", str(out)]).wait()
        options = ("--data.root", out, "--data.most_bad_images", 0.9)
        run = bench.start("shard-run", *options, ranks=1 + trial % 2)
        run.wait_for("step 10/")
        shard = Path(Dataset.open(out).train.archive(0)[0])
        os.truncate(shard, bench.random.randrange(shard.stat().st_size // 2, shard.stat().st_size))
        said = run.wait()
        warning = next((line for line in said.splitlines() if line.startswith("warning:")), "")
        ends = "finished" in said and run.process.returncode == 0
        yield Outcome(
            "nothing" if ends and shard.name in warning else f"the run: {run.message()}",
            warning.replace(f"{bench.folder}/", ""),
        )


def two_runs(bench: Bench, times: int) -> Iterator[Outcome]:
    """A second run in the same folder: it is refused, and the first goes on."""
    for _ in range(times):
        shutil.rmtree(bench.folder / "twice", ignore_errors=True)
        first = bench.start("twice", ranks=1)
        first.wait_for("step 5/")
        second = bench.start("twice", ranks=1)
        second.wait()
        first.wait()
        lost = difference(last_state(first.folder), bench.expected(1))
        yield Outcome(lost if second.process.returncode == 2 else "both ran", second.message())


def two_preparations(bench: Bench, times: int) -> Iterator[Outcome]:
    """A second preparation of the same folder: it is refused, and the first goes on."""
    for _ in range(times):
        out = bench.folder / "prepared-twice"
        shutil.rmtree(out, ignore_errors=True)
        command = ["-m", "tools.prep_imagenet", *sources(bench.folder / "images")]
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


def killed_preparation(bench: Bench, times: int) -> Iterator[Outcome]:
    """SIGKILL to a preparation and all its workers."""
    out = bench.folder / "prepared-killed"
    command = ["-m", "tools.prep_imagenet", *sources(bench.folder / "images"), "--out", str(out)]
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


def other_numbers_of_ranks(bench: Bench, times: int) -> Iterator[Outcome]:
    """Ranks 2, 1, 4, 2 in one run: sums differ in the last digits, and nothing else."""
    for _ in range(times):
        shutil.rmtree(bench.folder / "ranks", ignore_errors=True)
        for steps, ranks in ((20, 2), (45, 1), (70, 4)):
            bench.finish("ranks", "--run.max_steps", steps, ranks=ranks)
        run = bench.start("ranks")
        run.wait()
        found, expected = last_state(run.folder), bench.expected()
        off = max(
            (found["model"][name] - value).abs().max().item() / value.abs().max().item()
            for name, value in expected["model"].items()
        )
        same = found["step"] == expected["step"] and off < 1e-2
        yield Outcome("nothing" if same else f"weights are {off:.1e} off", run.message())


def two_nodes(bench: Bench, times: int) -> Iterator[Outcome]:
    """Two machines, of which one dies; both commands are given again."""
    for _ in range(times):
        shutil.rmtree(bench.folder / "nodes", ignore_errors=True)
        first, second = _nodes(bench)
        first.wait_for("step 5/")
        second.kill_all()
        first.wait()
        saw = first.message()
        first.kill_all() if first.process.poll() is None else None
        first, second = _nodes(bench)
        said = first.wait()
        second.wait()
        ends = "finished" in said
        lost = difference(last_state(first.folder), bench.expected(4)) if ends else first.message()
        yield Outcome(lost, saw)


def _nodes(bench: Bench) -> tuple[Run, Run]:
    port = bench.random.randrange(20000, 40000)
    where = ("--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}")
    first = bench.start("nodes", torchrun=where)
    time.sleep(3)
    return first, bench.start("nodes", torchrun=where)


FAULTS = (
    Fault("SIGKILL to a rank", killed_rank, 10),
    Fault("SIGKILL to torchrun", killed_torchrun, 10),
    Fault("SIGKILL to all", killed_all, 10),
    Fault("SIGTERM", signalled(signal.SIGTERM), 2),
    Fault("SIGTERM twice", signalled(signal.SIGTERM, signal.SIGTERM), 2),
    Fault("SIGINT", signalled(signal.SIGINT), 2),
    Fault("SIGINT twice", signalled(signal.SIGINT, signal.SIGINT), 2),
    Fault("killed ranks, torchrun --max-restarts", restarted, 3),
    Fault("a rank hangs (SIGSTOP)", hang, 2),
    Fault("checkpoint cut short", damaged_checkpoint(_truncate), 3),
    Fault("checkpoint emptied", damaged_checkpoint(_empty), 1),
    Fault("checkpoint is a folder", damaged_checkpoint(_make_folder), 1),
    Fault("a bit of a checkpoint flips", flipped_bits, 40),
    Fault("disk full at a checkpoint", full_disk, 2),
    Fault("disk full while preparing", full_disk_while_preparing, 1),
    Fault("disk becomes read-only", read_only, 1),
    Fault("folder of the run removed", removed_folder, 1),
    Fault("images go bad", bad_images, 4),
    Fault("a shard is cut short", cut_shard, 2),
    Fault("two runs in a folder", two_runs, 2),
    Fault("two preparations of a folder", two_preparations, 2),
    Fault("preparation killed", killed_preparation, 4),
    Fault("2, 1, 4, 2 ranks", other_numbers_of_ranks, 1),
    Fault("two machines, one dies", two_nodes, 2),
)
