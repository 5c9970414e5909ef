"""Processes that are killed, told to stop, or hang."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from alexnet_dali.tools.faults.outcomes import Outcome
from alexnet_dali.tools.faults.runs import Bench, Run, difference, last_state


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
