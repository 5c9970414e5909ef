"""Ranks: who holds which column and which part of a batch. The only reader of torchrun's environment."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from model.columns import NUM_COLUMNS, Columns
from pipeline.loader import Batch
from pipeline.memory import keep_freed_memory
from train.config import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Ranks form a mesh (data, column): neighbours 2k and 2k+1 are the two columns of pair k; pairs are data parallel.
    Every rank reads its own part of the global batch; a pair exchanges its two parts. Where each rank holds a whole
    network, it is a pair by itself.
    """

    rank: int
    world_size: int
    device: torch.device
    num_threads: int  # cores of this machine for each of its ranks
    columns: Columns
    data_group: dist.ProcessGroup | None = None  # the same column of every pair; None where there is one pair
    exchange_group: dist.ProcessGroup | None = None  # the pair, for input alone, so that it can run under a step
    control_group: dist.ProcessGroup | None = None  # everyone, over the CPU

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
        return self.columns.number // len(self.columns.held)

    def share(self, batch_size: int) -> int:
        """Images of a global batch that this rank reads; ConfigError where it can't be shared out evenly."""
        if batch_size < 1 or batch_size % self.world_size:
            raise ConfigError(
                f"a batch of {batch_size} images can't be shared evenly by {self.world_size} ranks; "
                f"expected a multiple of {self.world_size} (train.batch_size, or --batch-size)"
            )
        return batch_size // self.world_size

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over the pairs."""
        if self.data_group is None:
            return model
        network = DistributedDataParallel(model, process_group=self.data_group)
        network.register_comm_hook(self.data_group, _average)
        return network

    def exchange(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Both columns' parts of each batch, from own parts; each is sent while the batch before it is computed."""
        if self.columns.all_held:
            yield from batches
            return
        previous = None
        for batch in batches:
            current = _Exchange(batch, self.exchange_group)
            if previous is not None:
                yield previous.wait()
            previous = current
        if previous is not None:
            yield previous.wait()

    def any(self, flag: bool) -> bool:
        """True on every rank where `flag` is true on one."""
        if self.control_group is None:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control_group)
        return bool(flags)

    def check_agreement(self, state: object) -> None:
        """ConfigError unless every rank has come to the same `state`."""
        states = [state] * self.world_size
        if self.control_group is not None:
            dist.all_gather_object(states, state, group=self.control_group)
        if any(other != states[0] for other in states):
            raise ConfigError(
                f"the ranks do not go on from the same step of the same data: found {states}; "
                "run.dir and data.root must be the same folders on every machine"
            )

    def all_pairs(self, values: Tensor) -> Tensor:
        """[num_pairs, ...] from each pair's own `values` [...]."""
        rows = values.new_zeros(self.num_pairs, *values.shape)
        rows[self.pair] = values
        return self.sum_over_pairs(rows)

    def sum_over_pairs(self, counts: Tensor) -> Tensor:
        """`counts`, added up over the data axis; the columns of a pair hold the same ones."""
        if self.data_group is not None:
            dist.all_reduce(counts, group=self.data_group)
        return counts


def _average(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel's own rule, under a name that a trace shows."""
    with record_function("gradient averaging"):
        return allreduce_hook(group, bucket)


class _Exchange:
    """An all-gather under way; it keeps what is being sent alive."""

    def __init__(self, batch: Batch, group: dist.ProcessGroup | None) -> None:
        self._sent = batch
        self._received = Batch(*(part.new_empty(NUM_COLUMNS * len(part), *part.shape[1:]) for part in batch))
        with record_function("exchange: send ahead"):
            self._works = [
                dist.all_gather_single(both, own, group=group, async_op=True)
                for both, own in zip(self._received, batch, strict=True)
            ]

    def wait(self) -> Batch:
        with record_function("exchange: wait"):
            for work in self._works:
                work.wait()
        return self._received


@contextmanager
def join(device: str, num_columns: int = NUM_COLUMNS) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one; leave them at the end.

    `device` is cpu, cuda or auto (cuda where this machine has a GPU for each of its ranks). Each rank holds one of
    `num_columns`: with 1, a whole network. ConfigError where the ranks do not form pairs, or there are fewer GPUs than
    asked for.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_world_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if world_size > 1 and (world_size % num_columns or local_world_size % num_columns):
        raise ConfigError(
            f"found {world_size} ranks, {local_world_size} of them on this machine; expected one, or an even number on "
            "each machine: two columns make a network (torchrun --nproc_per_node=2 ...)"
        )
    where = _device(device, local_rank, local_world_size)
    num_threads = max(1, len(os.sched_getaffinity(0)) // local_world_size)
    keep_freed_memory()
    if world_size == 1:
        yield Ranks(0, 1, where, num_threads, Columns.whole(num_columns))
        return
    torch.set_num_threads(num_threads)  # torchrun sets 1, whatever the machine
    on_gpu = where.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=where if on_gpu else None)
    try:
        if num_columns == NUM_COLUMNS:
            yield _in_pairs(rank, world_size, where, num_threads)
        else:
            everyone, control = dist.group.WORLD, dist.new_group(backend="gloo")
            yield Ranks(rank, world_size, where, num_threads, Columns.whole(1), everyone, control_group=control)
    finally:
        dist.destroy_process_group()


def _in_pairs(rank: int, world_size: int, where: torch.device, num_threads: int) -> Ranks:
    mesh = init_device_mesh(where.type, (world_size // NUM_COLUMNS, NUM_COLUMNS), mesh_dim_names=("data", "column"))
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
    if asked == "cuda" and found < local_world_size:
        raise ConfigError(
            f"run.device is cuda and {local_world_size} ranks run here, but {found} GPUs were found; "
            "expected one for each rank: start fewer, or choose --run.device cpu"
        )
    if asked == "cpu" or found < local_world_size:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def report_error(error: Exception) -> int:
    """Print a message for people; returns the exit status. Where all ranks fail alike, the first one's is enough."""
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(3)  # torchrun ends this rank within that time if the first one has failed too
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
