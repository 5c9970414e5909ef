"""The Slurm script, with stand-ins for Slurm's commands that print their arguments."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_node_runs_one_torchrun_with_a_rank_for_each_gpu_and_all_cores(tmp_path):
    replacements = {"scontrol": "printf 'node7\\nnode8\\n'", "srun": 'printf "%s\\n" "$@"'}
    for name, script in replacements.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "JOB_NODELIST": "node[7-8]",
        "JOB_ID": "123456",
        "JOB_NUM_NODES": "2",
        "GPUS_ON_NODE": "8",
    }
    slurm |= {"CPUS_ON_NODE": "96"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [
        "bash",
        ROOT / "tools/train.sbatch",
        "configs/alexnet.yaml",
        "--data.root",
        "with a space",
    ]
    told = subprocess.run(
        command, env=environment | path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    launcher = told.index("torchrun")
    assert {"--cpus-per-task=96", "--kill-on-bad-exit=1"} == set(told[:launcher])
    expected = {
        "--nnodes=2",
        "--nproc_per_node=8",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=node7:23456",
    }
    assert expected <= set(told[launcher:])
    assert told[-5:] == [
        "-m",
        "alexnet_dali.train",
        "configs/alexnet.yaml",
        "--data.root",
        "with a space",
    ]
