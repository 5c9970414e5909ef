"""torchrun on several machines: two nodes of two ranks, over loopback.

A checkpoint moves between one process, two ranks and two nodes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing as mp

from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.train.parallel.ranks import join
from tests import reference
from tests.model.test_columns import LRS, SEED, batches, largest_difference, train_from
from tests.ranks import environment_of, free_port

ROOT = Path(__file__).parents[2]


def rank(number: int, nodes: int, ranks: int, port: int, *arguments):
    """One of `nodes` times `ranks`, told so as by torchrun."""
    own = {"LOCAL_RANK": str(number % ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= environment_of(number, nodes * ranks, port) | own
    main(*arguments)


def at_once(nodes: int, ranks: int, *arguments):
    """Run `main` below on so many ranks, without torchrun."""
    start = (nodes, ranks, free_port(), *arguments)
    mp.start_processes(rank, start, nprocs=nodes * ranks, start_method="forkserver")


def torchruns(nodes: int, ranks: int, folder: Path, first: int, last: int):
    """Run `main` below on `nodes` torchruns of `ranks` ranks each."""
    arguments = ["-m", "tests.train.test_nodes", str(folder), str(first), str(last)]
    torchrun = ["-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc_per_node={ranks}"]
    torchrun += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, *torchrun, f"--node_rank={node}", *arguments],
            cwd=ROOT,
            env=environment,
        )
        for node in range(nodes)
    ]
    assert [process.wait() for process in running] == [0] * nodes


def main(folder: Path, first: int, last: int) -> None:
    """Run the updates from `first` to `last` - 1, from the checkpoint of the updates before."""
    with join("cpu") as ranks:
        state = torch.load(folder / f"{first}.pt", weights_only=True) if first else None
        losses, state = train_from(state, ranks, first, last)
        if ranks.is_main:
            with atomic_write(folder / f"{last}.pt") as file:
                torch.save(state | {"losses": losses, "num_pairs": ranks.num_pairs}, file)


@pytest.mark.parametrize("launch", [at_once, pytest.param(torchruns, marks=pytest.mark.slow)])
def test_a_checkpoint_moves_between_two_nodes_one_process_and_two_ranks(launch, tmp_path):
    """Each form reads another's checkpoint, and all train like the plain network.

    The learning rate drops after the third update.
    """
    losses, model = reference.expected(SEED, batches(), LRS)
    forms = [(2, 2, 0, 2), (1, 1, 2, 3), (1, 2, 3, 4), (1, 1, 4, 5)]
    for nodes, ranks, first, last in forms:
        if nodes * ranks == 1:
            main(tmp_path, first, last)
        else:
            (launch if nodes > 1 else at_once)(nodes, ranks, tmp_path, first, last)
    states = [torch.load(tmp_path / f"{last}.pt", weights_only=True) for _, _, _, last in forms]
    assert [state["num_pairs"] for state in states] == [2, 1, 1, 1]
    assert [loss for state in states for loss in state["losses"]] == pytest.approx(
        losses, abs=1e-12
    )
    assert largest_difference(states[-1]["model"], model) < 1e-12
    assert states[1]["lr"] == 10 * states[2]["lr"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
