"""Start a function on several ranks, as torchrun would."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def run_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `world_size` new processes; an exception in one fails the test."""
    mp.spawn(_start, (world_size, free_port(), function, arguments), nprocs=world_size)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start(rank: int, world_size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    function(*arguments)
