"""Ranks: who holds which column, and which shard of a batch; how they join and leave.

Nothing else reads torchrun's environment.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from alexnet_dali.model.columns import NUM_COLUMNS, Columns
from alexnet_dali.pipeline.dataset import printable
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.system.cores import threads_of_a_rank
from alexnet_dali.pipeline.system.faults import advice, resource_error
from alexnet_dali.pipeline.system.memory import keep_freed_memory
from alexnet_dali.train.parallel import collectives, devices


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Ranks form a mesh (data, column): neighbours 2k and 2k+1 are the two columns of pair k; pairs
    are data parallel. Every rank reads its own shard of the global batch; a pair exchanges its two
    shards. Where each rank holds a whole network, it is a pair by itself.
    """

    rank: int
    world_size: int
    device: torch.device
    num_threads: int  # cores of this machine for each of its ranks
    columns: Columns
    # The same column of every pair; None where there is one pair.
    data_group: dist.ProcessGroup | None = None
    # The pair, for batches alone, so that they can travel under a step.
    exchange_group: dist.ProcessGroup | None = None
    control_group: dist.ProcessGroup | None = None  # everyone, over the CPU
    store: dist.Store | None = None  # what torchrun's ranks met by

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes and prints."""
        return self.rank == 0

    @property
    def pair(self) -> int:
        """Which pair this is along the data axis."""
        return self.rank // self._ranks_per_pair

    @property
    def num_pairs(self) -> int:
        """Length of the data axis."""
        return self.world_size // self._ranks_per_pair

    @property
    def _ranks_per_pair(self) -> int:
        return self.columns.num_columns // len(self.columns.held)

    def check_batch_size(self, batch_size: int) -> None:
        """ValueError where ranks can't share a batch of so many images evenly."""
        if batch_size < 1 or batch_size % self.world_size:
            raise ValueError(
                f"a batch of {batch_size} images can't be shared evenly by {self.world_size} "
                f"ranks; expected a multiple of {self.world_size} (train.batch_size, or "
                "--batch-size)"
            )

    def say(self, text: str) -> None:
        """Print on the main rank alone, and at once: torchrun's pipes would hold it back."""
        if self.is_main:
            print(text, flush=True)

    def exchange(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Both columns' shards of each batch, from own shards; see collectives.exchange."""
        return collectives.exchange(batches, self.exchange_group)

    def gradient_all_reduce(self, model: nn.Module) -> collectives.GradientAllReduce:
        """What averages the gradients of `model` over the pairs in each backward pass."""
        return collectives.GradientAllReduce(model, self.data_group)

    def all_reduce_max(self, values: list[float]) -> list[float]:
        """The largest of each of the `values` over all ranks."""
        if self.control_group is None:
            return values
        largest = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.control_group)
        return largest.tolist()

    def all_gather_object(self, state: Any) -> list[Any]:
        """Every rank's `state`, by rank."""
        states = [state] * self.world_size
        if self.control_group is not None:
            dist.all_gather_object(states, state, group=self.control_group)
        return states

    def all_gather_over_pairs(self, values: Tensor) -> Tensor:
        """[num_pairs, ...] from each pair's own `values` [...]."""
        rows = values.new_zeros(self.num_pairs, *values.shape)
        rows[self.pair] = values
        return self.all_reduce_over_pairs(rows)

    def all_reduce_over_pairs(self, counts: Tensor) -> Tensor:
        """`counts` of a pair's own images, added up over the pairs, in place.

        Weights and averaged gradients are the same in every pair: `columns.sum` is theirs.
        """
        if self.data_group is not None:
            dist.all_reduce(counts, group=self.data_group)
        return counts


@contextmanager
def join(device: str, num_columns: int = NUM_COLUMNS) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one; leave them at the end.

    `device` is cpu, cuda or auto: cuda where this machine has GPUs. Each rank holds one of
    `num_columns` columns; with 1, a whole network. ValueError where ranks do not form pairs, or a
    rank can't have a GPU of its own. ResourceError where memory or a GPU fails inside. With several
    ranks, one that fails inside prints its error and exits.
    """
    world = _World(*(int(os.environ.get(name, alone)) for name, alone in _ALONE.items()))
    _check_pairs(world, num_columns)
    where = _device(device, world.local_rank, world.local_world_size)
    num_threads = threads_of_a_rank(False, world.local_world_size)
    on_gpu = where.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    if world.world_size == 1:
        with _faults_explained():
            yield Ranks(0, 1, where, num_threads, Columns.whole(num_columns))
        return

    torch.set_num_threads(num_threads)  # torchrun sets 1, whatever the machine
    found, rank, world_size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    # torchrun keeps the store when it starts ranks again: addresses of dead ones are still in it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", found)
    if on_gpu:
        # Each group is a communicator, and kernels of several run at once: a batch travels under a
        # step. If GPUs took them in different orders, each would wait for the other for ever. From
        # 2.26 on, NCCL can keep to the order of the host's calls, which all ranks share.
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=_TIMEOUT,
        device_id=where if on_gpu else None,
    )
    try:
        form = _in_pairs if num_columns == NUM_COLUMNS else _each_whole
        yield replace(form(rank, world_size, where, num_threads), store=store)
    except BaseException as error:
        _leave_at_once(error)
    dist.destroy_process_group()


class _World(NamedTuple):
    """What torchrun tells each rank, in the order of `_ALONE`."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


_TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for each other in one exchange; the watchdog notices much sooner."""

_ALONE = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
"""torchrun's environment, and what it would say to a single process."""


def _check_pairs(world: _World, num_columns: int) -> None:
    together, here = world.world_size, world.local_world_size
    if together > 1 and (together % num_columns or here % num_columns):
        raise ValueError(
            f"found {together} ranks, {here} of them on this machine; expected one, or an even "
            "number on each machine: two columns make a network (torchrun --nproc_per_node=2 ...)"
        )


@contextmanager
def _faults_explained() -> Iterator[None]:
    """Where memory or a GPU fails, raise ResourceError in place of what torch raises."""
    try:
        yield
    except Exception as error:
        fault = resource_error(error)
        if fault is None:
            raise
        raise fault from error


def _leave_at_once(error: BaseException) -> NoReturn:
    """End this rank, and so all of them.

    Leaving in order would wait for the others, which wait for this one.
    """
    error = resource_error(error) or error
    if isinstance(error, (ValueError, OSError)):
        status = report_error(error)
        if isinstance(error, ValueError):
            end_job()  # it would fail again
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        status = error.code
    else:
        status = 1
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _each_whole(rank: int, world_size: int, where: torch.device, num_threads: int) -> Ranks:
    """Every rank holds a whole network."""
    control = dist.new_group(backend="gloo")
    columns = Columns.whole(1)
    return Ranks(
        rank, world_size, where, num_threads, columns, dist.group.WORLD, control_group=control
    )


def _in_pairs(rank: int, world_size: int, where: torch.device, num_threads: int) -> Ranks:
    mesh = init_device_mesh(
        where.type, (world_size // NUM_COLUMNS, NUM_COLUMNS), mesh_dim_names=("data", "column")
    )
    return Ranks(
        rank,
        world_size,
        where,
        num_threads,
        Columns((rank % NUM_COLUMNS,), mesh["column"].get_group()),
        mesh["data"].get_group() if world_size > NUM_COLUMNS else None,
        dist.new_subgroups(NUM_COLUMNS)[0],
        dist.new_group(backend="gloo"),
    )


def _device(asked: str, local_rank: int, local_world_size: int) -> torch.device:
    found = torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and not found):
        return torch.device("cpu")
    if found < local_world_size:
        raise ValueError(
            f"run.device is {asked} and {local_world_size} ranks run here, but {found} GPUs were "
            "found; expected one for each rank: start fewer (one process holds both columns), or "
            "choose --run.device cpu"
        )
    return devices.take(local_rank)


def end_job() -> None:
    """Have torchrun end, where it would start the ranks again."""
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        os.kill(os.getppid(), signal.SIGTERM)


def report_error(error: Exception) -> int:
    """Print a message for users; returns the exit status.

    If all ranks fail in the same way, only the first one prints.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(3)  # torchrun ends this rank within that time if the first one has failed, too
    print(f"error: {printable(str(error))}{advice(error)}", file=sys.stderr, flush=True)
    return 2
