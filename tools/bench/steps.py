"""Contenders of `tools.bench step` and `tools.bench train`, on one rank or two.

    torchrun --nproc_per_node=2 -m alexnet_dali.tools.bench.steps columns-fp32 cpu 128 5 ""

The result is one line of JSON from each rank.
"""

import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from alexnet_dali.model.alexnet import AlexNet, DropoutMasks
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.local_response_norm import compiled_local_response_norm
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.system.memory import keep_freed_memory
from alexnet_dali.tools import ROOT
from alexnet_dali.train.capture import READY, CapturedStep, CudaGraph
from alexnet_dali.train.config import load
from alexnet_dali.train.optim import OptimConfig, PaperSGD
from alexnet_dali.train.parallel.devices import autocast, has_tf32_and_bf16, set_matmul_precision
from alexnet_dali.train.parallel.ranks import Ranks, join
from alexnet_dali.train.trainer import Trainer

RECIPE = ROOT / "configs/alexnet.yaml"
Measured = dict[str, float]
WARM_UP = READY
"""Steps that are not timed: compilation, first use of memory, and the pipeline's start."""


@dataclass(frozen=True)
class Work:
    """What a rank is to measure; `batch_size` counts the images of all ranks.

    `device` is cpu or cuda, `data` a prepared folder.
    """

    precision: str
    device: str
    batch_size: int
    num_steps: int
    data: str


@dataclass(frozen=True)
class Baseline:
    """`measure` on each of `num_ranks` ranks."""

    num_ranks: int
    measure: Callable[[Work], Measured]
    precision: str


def plain_network() -> nn.Module:
    """The network as one would first write it: one process, torch's own layers."""
    norm = [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) for _ in range(2)]
    features = [
        *(
            nn.ZeroPad2d((0, 3, 0, 3)),
            nn.Conv2d(3, 96, 11, 4),
            nn.ReLU(),
            norm[0],
            nn.MaxPool2d(3, 2),
        ),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm[1], nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]
    hidden = [
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
    ]
    return nn.Sequential(*features, nn.Flatten(), *hidden, nn.Linear(4096, 1000))


def plain(work: Work, captured: bool = False) -> Measured:
    """`plain_network` with torch's SGD."""
    device = torch.device(work.device)
    network = plain_network().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    set_matmul_precision(work.precision, device)
    forward_in = autocast(work.precision, device)

    def step(batch: Batch) -> None:
        with forward_in:
            logits = network(batch.images).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, batch.labels).backward()
        optimizer.step()

    batch = _random_batch(work.batch_size, device)
    take = _replayed(step, network) if captured else step
    return _timed(lambda number: take(batch), work)


def plain_that_keeps_memory(work: Work) -> Measured:
    """`plain`, with freed memory kept as pipeline/system/memory.py does for ours."""
    keep_freed_memory()
    return plain(work)


def ours(work: Work, captured: bool = False) -> Measured:
    """Our step: both columns in one process, or one on each of two ranks."""
    with join(work.device) as ranks:
        return _our_step(ranks, ranks.columns, work.batch_size, work, captured)


def data_parallel(work: Work) -> Measured:
    """Our whole network on each of two ranks, which share the batch and average gradients."""
    with join(work.device) as ranks:
        return _our_step(ranks, Columns.whole(2), work.batch_size // ranks.world_size, work)


def _our_step(
    ranks: Ranks, columns: Columns, rows: int, work: Work, captured: bool = False
) -> Measured:
    model = AlexNet(
        ModelConfig(), 1000, 224, columns, norm=compiled_local_response_norm(ranks.device)
    ).to(ranks.device)
    network = model if rows == work.batch_size else DistributedDataParallel(model)
    optimizer = PaperSGD(model.named_parameters(), OptimConfig())
    set_matmul_precision(work.precision, ranks.device)
    forward_in = autocast(work.precision, ranks.device)
    masks = DropoutMasks(0, 0, ranks.device)

    def step(batch: Batch) -> None:
        with forward_in:
            logits = network(batch.images, masks).float()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, batch.labels).backward()
        optimizer.step()

    batch = _random_batch(rows, ranks.device)
    take = _replayed(step, model) if captured else step

    def numbered(number: int) -> None:
        masks.set_step(number)
        take(batch)

    return _timed(numbered, work)


def _replayed(step: Callable[[Batch], None], network: nn.Module) -> Callable[[Batch], None]:
    """`step`, captured as the trainer captures its own."""
    parameters = list(network.parameters())
    captured = CapturedStep(parameters, CudaGraph(parameters[0].device))
    return lambda batch: captured.take(step, batch)


def training(with_data: bool, captured: bool = False) -> Callable[[Work], Measured]:
    """The trainer's own step, on batches from `data`, or on its first batch again and again."""

    def measure(work: Work) -> Measured:
        options = ["--data.root", work.data, "--train.batch_size", str(work.batch_size)]
        options += ["--train.precision", work.precision, "--train.cuda_graph", str(captured)]
        with join(work.device) as ranks, tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(load([str(RECIPE), *options, "--run.dir", folder]), ranks)
            batches: Iterator[Batch] = trainer.batches()
            if not with_data:
                batches = itertools.repeat(next(batches))
            stopwatch = trainer.stopwatch
            for number in range(-WARM_UP, work.num_steps):
                if number == 0:
                    _wait_for(work.device)
                    stopwatch.reset()
                stopwatch.resume()
                batch = next(batches)
                stopwatch.got_batch()
                trainer.train_step(batch)
                stopwatch.end_step()
            _wait_for(work.device)
            measured = stopwatch.metrics(work.batch_size)
        return {tag.removeprefix("throughput/"): value for tag, value in measured.items()}

    return measure


def peak(work: Work) -> Measured:
    """The most that a GPU, or all cores, compute.

    It is the faster of a large matrix product and a convolution.
    """
    kind = torch.bfloat16 if work.precision == "bf16" else torch.float32
    device = torch.device(work.device)
    set_matmul_precision(work.precision, device)
    square = torch.randn(4096, 4096).to(device, kind)
    images = torch.randn(64, 256, 28, 28).to(device, kind, memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3).to(device, kind, memory_format=torch.channels_last)
    products: dict[Callable[[], Tensor], float] = {
        lambda: square @ square: 2 * 4096**3,
        lambda: F.conv2d(images, kernels, padding=1): 2 * 64 * 28**2 * 256 * 256 * 9,
    }
    return {
        "gflops": max(flops / _shortest(run, work.device) for run, flops in products.items()) / 1e9
    }


def _shortest(run: Callable[[], Tensor], device: str) -> float:
    """Seconds of the fastest of ten runs, or of as many as five seconds allow."""
    times: list[float] = []
    while len(times) < 10 and sum(times) < 5:
        start = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@cache
def flops_per_image() -> float:
    """Additions and multiplications of a training step, forward and backward, for one image."""
    # Not of `plain_network`: the counter does not understand grouped convolutions.
    network = AlexNet(ModelConfig(), 1000, 224).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
    return counter.get_total_flops()


def _timed(step: Callable[[int], None], work: Work) -> Measured:
    """Median wall time of a step, and the processor time of this process's threads."""
    for number in range(WARM_UP):
        step(number)
    times = []
    cpu = time.process_time()
    for number in range(WARM_UP, WARM_UP + work.num_steps):
        start = time.perf_counter()
        step(number)
        _wait_for(work.device)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {
        "images_per_second": work.batch_size / seconds,
        "step_ms": 1000 * seconds,
        "cpu_ms_per_step_and_rank": 1000 * (time.process_time() - cpu) / work.num_steps,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _random_batch(rows: int, device: torch.device) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = 50 * torch.randn(rows, 3, 224, 224, generator=draw)
    return Batch(images.to(device), torch.randint(1000, (rows,), generator=draw).to(device))


def _precisions(num_gpus: int) -> list[str]:
    """What the machine computes in."""
    if not num_gpus:
        return ["fp32", *_bf16_of_the_cpu()]
    old = torch.cuda.is_available() and not has_tf32_and_bf16(torch.device("cuda"))
    return ["fp32"] if old else ["fp32", "tf32", "bf16"]


def _bf16_of_the_cpu() -> list[str]:
    """bf16, if this processor has instructions for it; without, a step takes minutes."""
    has = torch.cpu.get_capabilities()
    return ["bf16"] if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else []


def step_baselines(num_gpus: int) -> dict[str, Baseline]:
    """The baselines for a step, on this number of GPUs or on the CPU; peaks come last."""
    precisions = _precisions(num_gpus)
    found: dict[str, Baseline] = {}

    def add(name: str, num_ranks: int, measure: Callable[[Work], Measured]) -> None:
        for precision in precisions:
            found[f"{name}-{precision}"] = Baseline(num_ranks, measure, precision)

    def add_both(name: str, num_ranks: int, measure: Callable[..., Measured]) -> None:
        add(name, num_ranks, measure)
        if num_gpus:
            add(f"{name}-captured", num_ranks, partial(measure, captured=True))

    add_both("plain", 1, plain)
    if not num_gpus:
        found["plain-kept-memory-fp32"] = Baseline(1, plain_that_keeps_memory, "fp32")
    add_both("one-process", 1, ours)
    if num_gpus != 1:
        add_both("columns", 2, ours)
        add("ddp", 2, data_parallel)
    add("peak", 1, peak)
    return found


def train_baselines(num_gpus: int) -> dict[str, Baseline]:
    """Training with data and without, on two ranks, or on one where there is one GPU."""
    num_ranks = 1 if num_gpus == 1 else 2
    return {
        f"{name}{'-captured' if captured else ''}-{precision}": Baseline(
            num_ranks, training(with_data, captured), precision
        )
        for precision in _precisions(num_gpus)
        if precision in (("fp32", "bf16") if num_gpus else ("fp32",))
        for name, with_data in (("with-data", True), ("without-data", False))
        for captured in ((False, True) if num_gpus else (False,))
    }


def main(name: str, device: str, batch_size: str, num_steps: str, data: str) -> None:
    """Measure one baseline on this rank."""
    num_gpus = torch.cuda.device_count() if device == "cuda" else 0
    baseline = (step_baselines(num_gpus) | train_baselines(num_gpus))[name]
    measured = baseline.measure(
        Work(baseline.precision, device, int(batch_size), int(num_steps), data)
    )
    # One write, so that the ranks' lines do not run into each other.
    print(json.dumps(measured) + "\n", end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
