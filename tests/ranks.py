"""Start a function or a command on several ranks, as torchrun would."""

import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

import torch.distributed as dist
import torch.multiprocessing as mp

from tests.processes import Started, command


def run_ranks(world_size: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `world_size` new processes.

    An exception in one of them fails the test.
    """
    arguments = (world_size, free_port(), function, arguments)
    mp.start_processes(_start, arguments, nprocs=world_size, start_method="forkserver")


class Launched(NamedTuple):
    """The ranks of a command, and the store by which they meet; it outlives them."""

    ranks: list[Started]
    store: dist.TCPStore

    def wait(self) -> list[int]:
        """The ranks' exit statuses. Where one fails, those that are left are told to stop."""
        left: dict[object, Started] = {rank.sentinel: rank for rank in self.ranks}
        while left:
            for sentinel in connection.wait([rank.sentinel for rank in left.values()]):
                if left.pop(sentinel).wait() != 0:
                    for rank in left.values():
                        rank.send_signal(signal.SIGTERM)
        return [rank.wait() for rank in self.ranks]


def launch(num_ranks: int, *words: object, environment: dict[str, str] | None = None) -> Launched:
    """`torchrun --nproc_per_node=NUM_RANKS WORDS`, without the seconds that torchrun takes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = (environment or {}) | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks = [
        command(*words, environment=shared | environment_of(rank, num_ranks, store.port))
        for rank in range(num_ranks)
    ]
    return Launched(ranks, store)


def environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank on a single machine."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start(
    rank: int, world_size: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ |= environment_of(rank, world_size, port)
    function(*arguments)
