"""This process among all that share each batch."""

import os

import torch.distributed as dist

_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Where torchrun and its like, srun and mpirun say how many processes they have started."""


def find(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This rank and the number of all: as given, or those of torch.distributed.

    ValueError where several would read the same data: ranks that have not joined, or a rank that is
    another's.
    """
    joined = None
    if dist.is_available() and dist.is_initialized():
        joined = dist.get_rank(), dist.get_world_size()
    if rank is not None and world_size is not None:
        if joined is not None and joined[1] == world_size and joined[0] != rank:
            raise ValueError(
                f"rank is {rank} of {world_size}, but torch.distributed has this process as rank "
                f"{joined[0]}; expected that number, or leave rank and world_size out"
            )
        return rank, world_size
    if joined is not None:
        return joined
    for name in _SIZES:
        if os.environ.get(name, "1") not in ("", "0", "1"):
            raise ValueError(
                f"{name} is {os.environ[name]}, but the ranks have not joined, and each would read "
                "the same data: first call torch.distributed.init_process_group, or give rank and "
                "world_size (0 and 1 where this process reads alone)"
            )
    return 0, 1


def check(rank: int | None, world_size: int | None) -> None:
    """ValueError unless both are given, and fit, or neither."""
    if (rank is None) != (world_size is None):
        raise ValueError("expected rank and world_size together, or neither")
    if rank is not None and world_size is not None and not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size}; expected 0 to {world_size - 1}")


def on_this_machine(world_size: int) -> int:
    """How many of the ranks are on this machine; all of them where nothing says so."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_size)
