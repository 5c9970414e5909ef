"""A process of `tools.bench host`: what Python costs a rank, with the packages of any checkout.

    PYTHONPATH=CHECKOUT python -P tools/bench/host_driver.py feed prepared/imagenet 128
    PYTHONPATH=CHECKOUT python -P tools/bench/host_driver.py step prepared/imagenet 128

It is run by its path, and takes `pipeline` and `train` from the checkout. What differs between
versions of them is in `_old_loader`, `_new_loader` and `_trainer`. `feed` cuts the graph before it
decodes; `step` trains on the meta device, whose tensors have no values. The result is one line of
JSON.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode

NUM_IMAGES = 1_281_167
"""ImageNet's training images of 2012: the list is repeated to that length."""
CROP, RESIZE = 224, 256
WARM_UP, TIMED, BEFORE_END, AFTER_END = 20, 200, 64, 128
"""Batches: not timed; timed inside an epoch; up to its end; and beyond, while the next is drawn."""
MOST_THREADS = 16
"""For DALI, as in training on a GPU."""
WARM_UP_STEPS, TIMED_STEPS = 5, 20
META = torch.device("meta")
_SPEC = find_spec("pipeline")
_BEFORE_0_3 = bool(_SPEC and _SPEC.origin and "alexnet_dali" not in Path(_SPEC.origin).read_text())
"""Whether the checkout's packages are not in `alexnet_dali` yet."""


class Spent(NamedTuple):
    """Nanoseconds: by the clock, and of processors."""

    wall: float
    main: float  # this thread
    threads: float  # all threads of Python, this one included
    everything: float  # DALI's threads and child processes, too

    def less(self, other: "Spent", times: float = 1) -> "Spent":
        """What is beyond `times` as much as `other`."""
        return Spent(*(mine - times * theirs for mine, theirs in zip(self, other)))


def _spent(threads: dict[int, int]) -> Spent:
    """So far; `threads` is this function's memory of threads, some of which may have ended."""
    for thread in threading.enumerate():
        assert thread.ident is not None and thread.native_id is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        threads[thread.native_id] = time.clock_gettime_ns(clock)
    children = [sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True)]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(children) + ended.ru_utime + ended.ru_stime
    return Spent(
        time.perf_counter_ns(),
        time.thread_time_ns(),
        sum(threads.values()),
        time.process_time_ns() + 1e9 * seconds,
    )


def feed(folder: Path, batch_size: int) -> dict[str, float]:
    """What a batch costs where nothing is decoded."""
    measured, longest = _feed(folder, batch_size)
    return {
        "batch_size": batch_size,
        "main_ms": measured.main / 1e6,
        "threads_ms": measured.threads / 1e6,
        "images_per_second": 1e9 * batch_size / measured.wall,
        "cpu_us_per_image": measured.everything / 1e3 / batch_size,
        "read_us_per_image": (measured.everything - measured.threads) / 1e3 / batch_size,
        "longest_ms": longest / 1e6,
    }


def _feed(folder: Path, batch_size: int) -> tuple[Spent, float]:
    """A batch's costs, with its share of the epoch's draws; and the longest wait for a batch."""
    per_epoch = NUM_IMAGES // batch_size
    first_step = per_epoch - WARM_UP - TIMED - BEFORE_END
    batches = _batches(folder, batch_size, first_step)
    threads: dict[int, int] = {}
    for _ in range(WARM_UP):
        next(batches)
    start = _spent(threads)
    for _ in range(TIMED):
        next(batches)
    middle = _spent(threads)
    waits = []
    for _ in range(BEFORE_END + AFTER_END):
        asked = time.perf_counter_ns()
        next(batches)
        waits.append(time.perf_counter_ns() - asked)
    one = Spent(*(total / TIMED for total in middle.less(start)))
    draws = _spent(threads).less(middle).less(one, len(waits))
    return Spent(*(cost + max(0, draw) / per_epoch for cost, draw in zip(one, draws))), max(waits)


def _batches(folder: Path, batch_size: int, first_step: int) -> Iterator[object]:
    """Endless batches from `first_step` on, of a list as long as ImageNet's, by training's loader.

    The graph ends where it would decode: it hands out the files' contents and what goes with them.
    """
    dataset = _module("pipeline.dataset").Dataset.open(folder)
    images = dataset.train.take(np.resize(np.arange(len(dataset.train)), NUM_IMAGES))
    dataset = dataclasses.replace(dataset, train=images)
    pipeline = _module("pipeline")
    options = {
        "global_batch_size": batch_size,
        "crops": pipeline.RandomCrop(CROP, RESIZE),
        "pixels": pipeline.Pixels(mean="image", std=(1.0, 1.0, 1.0), lighting_std=0.1),
        "seed": 0,
        "num_threads": min(len(os.sched_getaffinity(0)), MOST_THREADS),
    }
    loader = (_old_loader if _is_old() else _new_loader)(dataset, options)
    loader.load_state_dict(loader.state_dict() | {"step": first_step})
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _module(name: str) -> Any:
    """The checkout's module: in `alexnet_dali`, but for versions that had none."""
    return import_module(name if _BEFORE_0_3 else f"alexnet_dali.{name}")


def _cut(pipelines: type[Pipeline], batch_size: int, num_threads: int) -> Pipeline:
    """A pipeline that computes all its outputs, of which the loader sees the first alone.

    What is not put out, DALI would not even feed.
    """

    class Cut(pipelines):
        def run(self) -> Any:
            return super().run()[:1]

    return Cut(batch_size, num_threads, None, exec_dynamic=True, prefetch_queue_depth=2)


def _is_old() -> bool:
    """Whether the checkout is as of 3bfae7e, where training has a plan of its own."""
    return hasattr(_module("pipeline.plan"), "TrainingPlan")


def _old_loader(dataset: Any, options: dict[str, Any]) -> Any:
    """The loader of 3bfae7e, with its graph cut."""
    graph: Any = _module("pipeline.graph")

    def build(
        requests: Any, mean: Any, chosen: Any, batch_size: int, device_id: None, num_threads: int
    ) -> Pipeline:
        names = ["shift", *(name for name in graph.inputs(chosen) if name != "shift")]
        pipeline = _cut(graph.Pipeline, batch_size, num_threads)
        with pipeline:
            rows = (tuple(request[name] for name in names) for request in requests)
            nodes = dict(zip(names, fn.external_source(rows, num_outputs=len(names))))
            if not chosen.in_archives:
                nodes["file"] = fn.io.file.read(nodes["file"])
            nodes["file"] = nodes["file"].shape()  # of contents, no decoder makes a copy
            pipeline.set_outputs(*nodes.values())
        return pipeline

    graph.build = build
    plan = _module("pipeline.plan").TrainingPlan(
        NUM_IMAGES, options["global_batch_size"], RESIZE - CROP, options["seed"], sys.maxsize
    )
    return _module("pipeline").DataLoader(dataset, plan=plan, **options)


def _new_loader(dataset: Any, options: dict[str, Any]) -> Any:
    """The loader of later versions, with its graph cut."""
    graph: Any = _module("pipeline.graph")

    def build(requests: Any, mean: Any, chosen: Any, batch_size: int, num_threads: int) -> Pipeline:
        names = graph.inputs(chosen)
        pipeline = _cut(graph.Pipeline, batch_size, num_threads)
        with pipeline:
            nodes = fn.external_source(requests, num_outputs=len(names), no_copy=True)
            asked = dict(zip(names, nodes))
            asked["encoded"] = asked["encoded"].shape()
            pipeline.set_outputs(asked.pop("mean"), *asked.values())
        return pipeline

    graph.build = build
    return _module("pipeline").DataLoader(dataset, **options)


class _Operations(TorchDispatchMode):
    """Counts and times the operations of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatched = 0
        self.kernels = 0  # of a GPU: all operations but views, and memory's own
        self.inside = 0  # nanoseconds of this thread

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
        start = time.thread_time_ns()
        result = function(*args, **(kwargs or {}))
        self.inside += time.thread_time_ns() - start
        self.dispatched += 1
        views = any(
            value.alias_info and not value.alias_info.is_write for value in function._schema.returns
        )
        no_kernel = ("empty", "new_empty", "detach")
        is_kernel = function.namespace == "aten" and not views
        self.kernels += is_kernel and not function.overloadpacket.__name__.startswith(no_kernel)
        return result


def _watched(run: Callable[[], object], times: int) -> tuple[_Operations, float]:
    """The operations of that many runs, and this thread's nanoseconds outside of them in a run."""
    outside = []
    with _Operations() as operations:
        for _ in range(times):
            start = time.thread_time_ns() - operations.inside
            run()
            outside.append(time.thread_time_ns() - operations.inside - start)
    return operations, statistics.median(outside)


class _OneKernel(torch.autograd.Function):
    """Stands for the compiled response norm: one kernel forward, one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        return x.neg()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.neg(), None


class _Batch(NamedTuple):
    images: Tensor
    labels: Tensor


def _trainer(folder: Path, batch_size: int, run: str) -> Any:
    """A trainer of the paper's network, both columns in one process, on the meta device.

    Its classes are those of `folder`.
    """
    library = torch.library.Library("aten", "IMPL", "Meta")
    # They write only to their inputs, so there are no output shapes to compute
    for name in ("_fused_sgd_", "_fused_sgd_.tensor_lr"):
        library.impl(name, lambda *arguments, **options: None)
    module: Any = _module("train.trainer")
    module.autocast = lambda precision, device: contextlib.nullcontext()  # knows no meta device
    sgd: Any = sys.modules["torch.optim.sgd"]  # torch.optim has a class of that name, too
    sgd._device_dtype_check_for_fused = lambda parameter: None
    setattr(module, "response_norm" if _BEFORE_0_3 else "local_response_norm", _OneKernel.apply)
    recipe = Path(module.__file__).parents[1] / "configs/alexnet.yaml"
    options = ["--data.root", str(folder), "--train.batch_size", str(batch_size)]
    options += ["--train.compile", "false", "--run.dir", run]
    config = _module("train.config").load([str(recipe), *options])
    columns = _module("model.columns").Columns.whole(2)
    ranks = _module("train.distributed" if _BEFORE_0_3 else "train.parallel.ranks").Ranks(
        0, 1, META, 1, columns
    )
    trainer = module.Trainer(config, ranks)
    trainer.library = library  # which takes its operation back when it is deleted
    return trainer


def step(folder: Path, batch_size: int) -> dict[str, float | None]:
    """What it costs to issue a training step, without the time of any kernel.

    Most meta operations are written in Python, so their time says nothing of a GPU's: `own_ms` is
    the rest, less what watching them costs.
    """
    labels = torch.empty(batch_size, dtype=torch.int64, device=META)
    batch = _Batch(torch.empty(batch_size, 3, CROP, CROP, device=META), labels)
    with tempfile.TemporaryDirectory() as run:
        trainer = _trainer(folder, batch_size, run)
        times = []
        for _ in range(WARM_UP_STEPS + TIMED_STEPS):
            start = time.thread_time_ns()
            trainer.train_step(batch)
            times.append(time.thread_time_ns() - start)
        operations, outside = _watched(lambda: trainer.train_step(batch), TIMED_STEPS)
    _, watching = _watched(batch.labels.detach, 10_000)  # which is one operation
    outside -= watching * operations.dispatched / TIMED_STEPS
    return {
        "batch_size": batch_size,
        "main_ms": statistics.median(times[WARM_UP_STEPS:]) / 1e6,
        "own_ms": outside / 1e6,
        "operations": operations.kernels / TIMED_STEPS,
    }


def main(what: str, folder: str, batch_size: str) -> None:
    """Measure in a process that has done nothing else."""
    measure = {"feed": feed, "step": step}[what]
    print(json.dumps(measure(Path(folder), int(batch_size))), flush=True)
    os._exit(0)  # threads would first finish batches that nobody needs


if __name__ == "__main__":
    main(*sys.argv[1:])
