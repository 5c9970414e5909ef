"""Control groups as kernels show them, in a folder of the test's own."""

import os

import pytest

from alexnet_dali.pipeline.system import cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """The folder in the place of /sys/fs/cgroup, on a machine of 64 cores."""
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    return tmp_path


def write(groups, own, **files):
    (groups / "own").write_text(own)
    for name, content in files.items():
        path = groups / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 64),
        ("800000 100000", 8),
        ("150000 100000", 2),  # one core and a half
        ("1000 100000", 1),
        ("6400000 50000", 64),  # more than there are
        ("", 64),
        ("no number", 64),
        ("100000 0", 64),
    ],
)
def test_quota_of_cgroup_v2(groups, quota, expected):
    write(groups, "0::/\n", cpu_max=quota)
    assert cores.usable_cores() == expected


def test_quota_of_a_group_above_counts(groups):
    write(
        groups,
        "0::/slurm/job/step\n",
        slurm__job__step__cpu_max="1600000 100000",
        slurm__job__cpu_max="400000 100000",
        slurm__cpu_max="max 100000",
        slurm__other__cpu_max="100000 100000",
    )
    assert cores.usable_cores() == 4


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("250000", 3)])
@pytest.mark.parametrize("folder", ["cpu__", "cpu__docker__abc__"])
def test_quota_of_cgroup_v1(groups, folder, quota, expected):
    """A container sees its own group at the top, one without a namespace below it."""
    own = "9:memory:/m\n4:cpu,cpuacct:/docker/abc\n0::/elsewhere\n"
    files = {f"{folder}cfs_quota_us": quota, f"{folder}cfs_period_us": "100000"}
    write(groups, own, **files, cpuset__cfs_quota_us="1")
    assert cores.usable_cores() == expected


def test_affinity_counts_where_there_are_no_control_groups(groups, monkeypatch):
    assert cores.usable_cores() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 6, 7})
    assert cores.usable_cores() == 3
    write(groups, "0::/\n", cpu_max="800000 100000")
    assert cores.usable_cores() == 3
