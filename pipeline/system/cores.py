"""How many cores this process may use: the kernel and a container both limit them."""

import os
from collections.abc import Iterator
from pathlib import Path

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process and those that it starts may keep busy together, at least 1.

    That is the smallest of its CPU affinity and the CPU quotas of its control groups, rounded up
    (cgroup v2's cpu.max, v1's cpu.cfs_quota_us). Docker, Kubernetes and SLURM set quotas, which
    affinity does not show: more threads than that are stopped for most of every period.
    """
    quotas = (quota for folder in _own_folders() for quota in _quotas(folder))
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


MOST_THREADS_A_GPU = 16
"""For each thread, DALI reserves 16 MB of the GPU's memory, and as much pinned memory."""


def threads_of_a_rank(on_gpu: bool, ranks_here: int) -> int:
    """Threads that decode for one of the ranks on this machine: its share of the cores."""
    share = max(1, usable_cores() // ranks_here)
    return min(share, MOST_THREADS_A_GPU) if on_gpu else share


def _own_folders() -> Iterator[Path]:
    """The folders of this process's control groups for CPUs, and of those that they are in.

    A container may see its own group as the top one, under the name that it has outside.
    """
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = _GROUPS
        elif "cpu" in controllers.split(","):
            top = _GROUPS / "cpu"
        else:
            continue
        group = Path(path.lstrip("/"))
        yield from (top / folder for folder in (group, *group.parents))


def _quotas(folder: Path) -> Iterator[int]:
    """The group's quotas in cores, rounded up; none where it has none, or one that is not known."""
    quotas = (
        _words(folder / "cpu.max"),
        _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),
    )
    for words in quotas:
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield -(-int(words[0]) // int(words[1]))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
