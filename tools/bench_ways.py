"""The ways that tools/bench.py compares, each run under torchrun: one line of JSON on rank 0.

torchrun --nproc_per_node=2 -m tools.bench_ways columns-fp32 128 5 ""
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

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from model.alexnet import AlexNet, Masks
from model.columns import Columns
from model.config import ModelConfig
from model.response_norm import compiled_response_norm
from pipeline.loader import Batch
from pipeline.memory import keep_freed_memory
from train.config import load
from train.distributed import Ranks, join
from train.optim import OptimConfig, PaperSGD
from train.precision import set_up
from train.trainer import Trainer

Measured = dict[str, float]
WARM_UP = 4
"""Steps that are not timed: compilation, first use of memory, and the pipeline's start."""


@dataclass(frozen=True)
class Way:
    """`measure(precision, batch_size, num_steps, data)` on each of `num_ranks` ranks."""

    num_ranks: int
    measure: Callable[[str, int, int, str], Measured]
    precision: str


def plain_network() -> nn.Module:
    """The network as one would first write it: one process, grouped convolutions, torch's own layers."""
    norm = [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) for _ in range(2)]
    features = [
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), nn.ReLU(), norm[0], nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm[1], nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]
    hidden = [nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*features, nn.Flatten(), *hidden, nn.Linear(4096, 1000))


def plain(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
    """`plain_network` with torch's SGD."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = plain_network().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    autocast = set_up(precision, device)
    images, labels = _random_batch(batch_size, device)

    def step(number: int) -> None:
        with autocast:
            logits = network(images).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()

    return _timed(step, batch_size, num_steps)


def plain_that_keeps_memory(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
    """`plain`, helped by what pipeline/memory.py does for ours."""
    keep_freed_memory()
    return plain(precision, batch_size, num_steps, data)


def ours(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
    """Our step: both columns in one process, or one on each of two ranks."""
    with join("auto") as ranks:
        return _our_step(ranks, ranks.columns, precision, batch_size, batch_size, num_steps)


def data_parallel(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
    """Our network whole on each of two ranks, which share the batch and average their gradients."""
    with join("auto") as ranks:
        rows = batch_size // ranks.world_size
        return _our_step(ranks, Columns.whole(2), precision, batch_size, rows, num_steps)


def _our_step(ranks: Ranks, columns: Columns, precision: str, batch_size: int, rows: int, num_steps: int) -> Measured:
    model = AlexNet(ModelConfig(), 1000, 224, columns, norm=compiled_response_norm(ranks.device)).to(ranks.device)
    network = model if rows == batch_size else DistributedDataParallel(model)
    optimizer = PaperSGD(model.named_parameters(), OptimConfig())
    autocast = set_up(precision, ranks.device)
    images, labels = _random_batch(rows, ranks.device)

    def step(number: int) -> None:
        with autocast:
            logits = network(images, Masks(0, number)).float()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()

    return _timed(step, batch_size, num_steps)


def training(with_data: bool) -> Callable[[str, int, int, str], Measured]:
    """The trainer's own step, on batches from `data` or on the first of them again and again."""

    def measure(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
        options = ["--data.root", data, "--train.batch_size", str(batch_size), "--train.precision", precision]
        with join("auto") as ranks, tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(load(["configs/alexnet.yaml", *options, "--run.dir", folder]), ranks)
            batches: Iterator[Batch] = trainer.batches()
            if not with_data:
                batches = itertools.repeat(next(batches))
            waits: list[float] = []

            def step(number: int) -> None:
                start = time.perf_counter()
                batch = next(batches)
                waits.append(time.perf_counter() - start)
                trainer.train_step(batch)

            measured = _timed(step, batch_size, num_steps)
            share = sum(waits[WARM_UP:]) / (measured["step_ms"] * num_steps / 1000)
            return measured | {"data_wait_fraction": share}

    return measure


def peak(precision: str, batch_size: int, num_steps: int, data: str) -> Measured:
    """The most that one GPU, or all cores, compute: the faster of a large matrix product and a convolution."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_up(precision, device)
    square = torch.randn(4096, 4096).to(device, kind)
    images = torch.randn(64, 256, 28, 28).to(device, kind, memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3).to(device, kind, memory_format=torch.channels_last)
    work: dict[Callable[[], Tensor], float] = {
        lambda: square @ square: 2 * 4096**3,
        lambda: F.conv2d(images, kernels, padding=1): 2 * 64 * 28**2 * 256 * 256 * 9,
    }
    return {"gflops": max(flops / _shortest(run) for run, flops in work.items()) / 1e9}


def _shortest(run: Callable[[], Tensor]) -> float:
    """Seconds that the fastest of ten runs takes."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def flops_per_image() -> float:
    """Additions and multiplications of a training step, forward and backward, for one image."""
    network = AlexNet(ModelConfig(), 1000, 224).to("meta")  # not `plain_network`: grouped convolutions are miscounted
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
    return counter.get_total_flops()


def _timed(step: Callable[[int], None], batch_size: int, num_steps: int) -> Measured:
    """Median wall time of a step, and the processor time of this process's threads."""
    for number in range(WARM_UP):
        step(number)
    times = []
    cpu = time.process_time()
    for number in range(WARM_UP, WARM_UP + num_steps):
        start = time.perf_counter()
        step(number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {
        "images_per_second": batch_size / seconds,
        "step_ms": 1000 * seconds,
        "cpu_ms_per_step_and_rank": 1000 * (time.process_time() - cpu) / num_steps,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _random_batch(rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = 50 * torch.randn(rows, 3, 224, 224, generator=draw)
    return images.to(device), torch.randint(1000, (rows,), generator=draw).to(device)


STEP_WAYS = {
    "plain-fp32": Way(1, plain, "fp32"),
    "plain-bf16": Way(1, plain, "bf16"),
    "plain-kept-memory-fp32": Way(1, plain_that_keeps_memory, "fp32"),
    "one-process-fp32": Way(1, ours, "fp32"),
    "one-process-bf16": Way(1, ours, "bf16"),
    "columns-fp32": Way(2, ours, "fp32"),
    "columns-bf16": Way(2, ours, "bf16"),
    "ddp-fp32": Way(2, data_parallel, "fp32"),
    "ddp-bf16": Way(2, data_parallel, "bf16"),
}
PEAK_WAYS = {"peak-fp32": Way(1, peak, "fp32"), "peak-bf16": Way(1, peak, "bf16")}
TRAIN_WAYS = {"with-data": Way(2, training(True), "fp32"), "without-data": Way(2, training(False), "fp32")}


def main(name: str, batch_size: str, num_steps: str, data: str) -> None:
    """Measure one way on this rank."""
    way = (STEP_WAYS | PEAK_WAYS | TRAIN_WAYS)[name]
    # One write, so that the ranks' lines do not run into each other.
    print(json.dumps(way.measure(way.precision, int(batch_size), int(num_steps), data)) + "\n", end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
