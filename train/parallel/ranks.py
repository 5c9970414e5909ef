"""Ranks: who holds which column, and which shard of a batch; how they join and leave.

Nothing else reads torchrun's environment.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from alexnet_dali.model.columns import NUM_COLUMNS, Columns
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.messages import printable
from alexnet_dali.pipeline.system.cores import threads_of_a_rank
from alexnet_dali.pipeline.system.faults import ResourceError, advice, gist, resource_error
from alexnet_dali.pipeline.system.memory import keep_freed_memory
from alexnet_dali.pipeline.system.parent import starter
from alexnet_dali.pipeline.system.surroundings import silence_stdout
from alexnet_dali.train.parallel import collectives, devices
from alexnet_dali.train.parallel.rendezvous import Place, meet


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
    launcher: int | None = None  # torchrun's process

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
        """Print on the main rank alone, and at once: torchrun's pipes would hold it back.

        Where the reader is gone, it is as if a terminal was closed: SIGHUP. No other fault of the
        output is worth a run.
        """
        if not self.is_main:
            return
        try:
            print(text, flush=True)
        except OSError as error:
            silence_stdout()
            if isinstance(error, BrokenPipeError):
                signal.raise_signal(signal.SIGHUP)
            else:
                with suppress(OSError):
                    print(f"warning: no more is printed ({error})", file=sys.stderr, flush=True)

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
    world = _world()
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
    with _signals_end_at_once():
        try:
            place = _place()
            store = meet(place, world.rank, world.world_size)
            _connect(store, world, where)
            form = _in_pairs if num_columns == NUM_COLUMNS else _each_whole
            ranks = form(world.rank, world.world_size, where, num_threads)
            yield replace(ranks, store=store, launcher=place.launcher)
        except BaseException as error:
            _leave_at_once(error)
    dist.destroy_process_group()


_TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for each other in one exchange; the watchdog notices much sooner."""

_ALONE = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
"""torchrun's environment, and what it would say to a single process."""

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class _World(NamedTuple):
    """What torchrun tells each rank, in the order of `_ALONE`."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def _world() -> _World:
    """What the environment says, where an empty variable says nothing.

    ValueError where that can't be.
    """
    said = [os.environ.get(name) or str(alone) for name, alone in _ALONE.items()]
    if all(number.isdecimal() for number in said):
        world = _World(*map(int, said))
        if world.rank < world.world_size and world.local_rank < world.local_world_size:
            return world
    raise ValueError(f"expected a rank below the number of ranks, found {_variables()}")


def _variables() -> str:
    """What torchrun's environment says, and how to run without it."""
    names = list(filter(os.environ.get, (*_ALONE, *_ADDRESS)))
    said = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return f"{said}; to run alone: unset {' '.join(names)}"


def _check_pairs(world: _World, num_columns: int) -> None:
    together, here = world.world_size, world.local_world_size
    if together > 1 and (together % num_columns or here % num_columns):
        raise ValueError(
            f"found {together} ranks, {here} of them on this machine; expected one, or an even "
            "number on each machine: two columns make a network (torchrun --nproc_per_node=2 ...). "
            f"The environment says {_variables()}"
        )


def _place() -> Place:
    """Where ranks meet; ValueError where the environment does not say it."""
    host, port = (os.environ.get(name, "") for name in _ADDRESS)
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise ValueError(
            f"expected an address and a port in {' and '.join(_ADDRESS)}, found {_variables()}"
        )
    return Place(
        host,
        int(port),
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
        starter() if dist.is_torchelastic_launched() else None,
        _variables(),
    )


@contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Let the system end this rank: handlers in Python do not run while C++ waits for others."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _connect(store: dist.Store, world: _World, where: torch.device) -> None:
    """Let ranks that have met exchange tensors; ValueError where they can't."""
    names = os.environ.get("GLOO_SOCKET_IFNAME", "")
    found = [name for _, name in socket.if_nameindex()]
    if lacking := set(filter(None, names.split(","))) - set(found):
        raise ValueError(
            f"GLOO_SOCKET_IFNAME is {names}, and this machine has no {', '.join(lacking)}; "
            f"expected some of {', '.join(found)}, or none"
        )
    if not names and world.local_rank == 0 and _is_seen_as_loopback(world):
        print(
            f"warning: this machine's name, {socket.gethostname()}, leads to itself (127.*), where "
            f"other machines can't connect; set GLOO_SOCKET_IFNAME to one of {', '.join(found)}",
            file=sys.stderr,
            flush=True,
        )
    on_gpu = where.type == "cuda"
    if on_gpu:
        # Each group is a communicator, and kernels of several run at once: a batch travels under a
        # step. If GPUs took them in different orders, each would wait for the other for ever. From
        # 2.26 on, NCCL can keep to the order of the host's calls, which all ranks share.
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.world_size,
            timeout=_TIMEOUT,
            device_id=where if on_gpu else None,
        )
    except RuntimeError as error:
        raise resource_error(error) or ResourceError(
            f"ranks have met, but can't connect to each other ({gist(error)}); if none was killed, "
            "look at firewalls, or choose a network: GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME"
        ) from error


def _is_seen_as_loopback(world: _World) -> bool:
    """Whether gloo, which looks this machine's name up, gives others an address of no use."""
    has_others = world.world_size > world.local_world_size
    return (
        has_others
        and _is_loopback(socket.gethostname())
        and not _is_loopback(os.environ["MASTER_ADDR"])
    )


def _is_loopback(name: str) -> bool:
    """Whether a name leads to the machine that asks, which gloo takes for unknown names."""
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return True


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
    elif isinstance(error, KeyboardInterrupt):
        status = 128 + signal.SIGINT
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
    if os.environ.get("RANK", "0") not in ("", "0"):
        time.sleep(3)  # torchrun ends this rank within that time if the first one has failed, too
    message = f"error: {printable(str(error))}{advice(error)}"
    print(message, file=sys.stderr, flush=True)
    note = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if note:  # torchrun's report quotes the message; tools/launch.py reads the rest
        about = {"py_callstack": message, "timestamp": int(time.time())}
        content = {
            "message": {"message": message, "extraInfo": about},
            "refused": isinstance(error, ValueError),
        }
        with suppress(OSError):
            Path(note).write_text(json.dumps(content))
    return 2
