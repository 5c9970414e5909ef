"""Several runs, ranks and machines."""

import shutil
import time
from collections.abc import Iterator

from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, Run, difference, last_state


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
