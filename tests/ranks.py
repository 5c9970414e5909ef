"""Start a function on several ranks, as torchrun would."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def run_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `world_size` new processes.

    An exception in one of them fails the test.
    """
    # Ranks are forked from a server that has imported what they need and done nothing else. They
    # start in a tenth of the time.
    multiprocessing.set_forkserver_preload(
        ["alexnet_dali.pipeline.prepare.workers", "alexnet_dali.train.trainer"]
    )
    arguments = (world_size, free_port(), function, arguments)
    mp.start_processes(_start, arguments, nprocs=world_size, start_method="forkserver")


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start(
    rank: int, world_size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    function(*arguments)
