"""The Slurm script, with stand-ins for Slurm's commands; docs/clusters.md tells of a real one."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = {
    "SLURM_JOB_NODELIST": "node[7-8]",
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_ON_NODE": "96",
}
WORDS = ["configs/alexnet.yaml", "--data.root", "with a space"]


@pytest.fixture
def job(tmp_path):
    """Run the script; `trains` stands for what runs on a node, in Bash.

    Returns the exit status, what was printed, and the arguments that scontrol and srun were given.
    A run's newest checkpoint is the content of the file `newest`.
    """

    def run(trains="true", state="RUNNING", **more):
        commands = {
            "scontrol": 'echo "$@" >> scontrol; printf "node7\\nnode8\\n"',
            "squeue": f"echo {state}",
            "python": '[[ $2 == *newest_checkpoint ]] && cat newest || { printf "%s\\n" "$@"; '
            f'printf "%s\\n" "$@" > ranks; {trains}; }}',
            # Options are its own; the rest is run on each node, and the highest status returned.
            "srun": 'while [[ $1 == --* ]]; do echo "$1" >> srun; shift; done; highest=0\n'
            'for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; status=$?\n'
            "((status > highest)) && highest=$status; done; exit $highest",
        }
        for name, script in commands.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
            (tmp_path / name).chmod(0o755)
        bin = tmp_path / "bin"
        bin.mkdir()
        for name in commands:
            (tmp_path / name).rename(bin / name)
        (tmp_path / "newest").write_text("step-0000000001.pt")
        (tmp_path / "srun").touch()
        path = {"PATH": f"{bin}:{os.environ['PATH']}"}
        command = ["bash", ROOT / "tools/train.sbatch", *WORDS]
        result = subprocess.run(
            command, cwd=tmp_path, env=SLURM | more | path, capture_output=True, text=True
        )
        told = [(tmp_path / name).read_text().splitlines() for name in ("scontrol", "srun")]
        return result.returncode, result.stdout + result.stderr, *told

    return run


SAVES = "echo step-0000000002.pt > newest"


def test_each_node_runs_one_launcher_with_a_rank_for_each_gpu_and_all_cores(job, tmp_path):
    status, _, asked, options = job()
    assert status == 0 and asked == ["show hostnames node[7-8]"]
    assert {"--cpus-per-task=96", "--kill-on-bad-exit=1"} == set(options)
    ranks = (tmp_path / "ranks").read_text().splitlines()
    assert ranks[:2] == ["-m", "alexnet_dali.tools.launch"]
    expected = {
        "--nnodes=2",
        "--nproc_per_node=8",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=node7:23456",
        "--max-restarts=3",
    }
    assert expected <= set(ranks)
    assert ranks[-5:] == ["-m", "alexnet_dali.train", *WORDS]


@pytest.mark.parametrize("status", [143, 1, 137])
def test_a_job_that_has_saved_and_is_not_finished_requeues_itself(status, job):
    found, said, asked, _ = job(f"{SAVES}; exit {status}")
    assert found == status and asked[1:] == ["requeue 123456"]
    assert "requeued: the job goes on from step-0000000002.pt" in said


@pytest.mark.parametrize(
    "trains, state, expected",
    [
        (f"{SAVES}; exit 0", "RUNNING", 0),  # finished
        ("exit 143", "RUNNING", 143),  # without progress
        (f"{SAVES}; exit 2", "RUNNING", 2),  # refused
        # One node has refused, the other was ended for that, with a higher status.
        (f"{SAVES}; exit $((SLURM_PROCID ? 143 : 2))", "RUNNING", 2),
        (f"{SAVES}; exit 143", "CANCELLED", 143),
        (f"{SAVES}; exit 143", "COMPLETING", 143),  # preempted: Slurm requeues it
    ],
)
def test_others_are_not_requeued(trains, state, expected, job):
    status, said, asked, _ = job(trains, state)
    assert status == expected and asked == ["show hostnames node[7-8]"]
    assert ("there is no new checkpoint" in said) == (trains == "exit 143")


def test_of_an_array_only_the_own_task_is_requeued(job):
    array = {"SLURM_ARRAY_JOB_ID": "123400", "SLURM_ARRAY_TASK_ID": "7"}
    _, _, asked, _ = job(f"{SAVES}; exit 143", **array)
    assert asked[1:] == ["requeue 123400_7"]


def test_without_gpus_it_says_what_to_ask_for(job):
    status, said, *_ = job(SLURM_GPUS_ON_NODE="")
    assert status and "give the GPUs of a node" in said
