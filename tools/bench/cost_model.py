"""What a training step should cost on machines that this project has not run on.

    python -m alexnet_dali.tools.bench.cost_model

The bytes are exact: tests/bench/test_traffic.py counts them, and DESIGN.md has the formulas. The
times rest on the assumptions below, and on what `tools.bench` measured of hosts. Left out are
decoding on GPUs, reading from disks, the time that Python's other threads keep the main thread from
its lock, issuing collectives, validation, checkpoints, and an epoch's first batch.
"""

from typing import NamedTuple

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import layers, shapes
from alexnet_dali.tools.bench.steps import flops_per_image
from alexnet_dali.tools.bench.traffic import FLOAT, HALF, bytes_per_step, column_parameters
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.tables import markdown

NETWORK, CLASSES, CROP = ModelConfig(), 1000, 224
RUNS = ((2, 128), (8, 128), (8, 512), (64, 4096))
"""GPUs, and images of a step over all of them. The recipe's are 128; more is another recipe."""
GATHERS = 9
"""Collectives between columns in a step: four forward and back, the logits forward."""
GPU_FLOPS = 0.2 * 312e12
"""A fifth of an A100's bf16 peak.

Small convolutions, pooling and response norm are far from a matrix product.
"""
DECODE_MS = {"originals": 2.07, "a 256 store": 0.62}
"""Processor milliseconds for an image that CPUs decode.

`tools.bench pipeline` measured them on one core of an AMD EPYC.
"""
FEED_MS, FURTHER_IMAGE_US, STEP_MS, OPERATIONS = 0.47, 2.4, 6.5, 160
"""The main thread's time for a batch of 128, for each image beyond, and around a step's operations.

`tools.bench host` measured them on a store: main_ms and own_ms, medians of three rounds (the first
two) and six, on two cores of an Intel Xeon, which DALI's reading threads shared. Its step has both
columns in one process; a rank with one column does less.
"""
LAUNCH = 5e-6
"""Seconds to dispatch an operation and launch its kernel: an assumption."""


class Link(NamedTuple):
    """What connects the GPUs: bytes/s that each receives, and seconds until the first arrives."""

    name: str
    bandwidth: float
    latency: float


LINKS = (
    Link("NVLink", 240e9, 5e-6),
    Link("PCIe 4.0 x16", 24e9, 10e-6),
    Link("100 Gb/s Ethernet", 11e9, 30e-6),
)


class Prediction(NamedTuple):
    """Seconds of a step, by part.

    What is hidden under computing counts 0. The host issues a step while GPUs are at the one
    before.
    """

    compute: float
    columns: float
    inputs: float
    gradients: float
    host: float

    @property
    def seconds(self) -> float:
        """All of the step."""
        return max(sum(self) - self.host, self.host)

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        if self.seconds == self.host:
            return "host"
        return max(self._fields[:-1], key=lambda field: getattr(self, field))


def predict(num_gpus: int, batch_size: int, link: Link) -> Prediction:
    """A step of `batch_size` images over all pairs, in bf16.

    Gathers between columns can't overlap with anything; inputs travel under the whole step before,
    gradients under the backward pass, which is two thirds of computing.
    """
    traffic = bytes_per_step(NETWORK, CLASSES, CROP, batch_size, num_gpus // 2, "bf16")
    compute = batch_size / num_gpus * flops_per_image() / GPU_FLOPS
    return Prediction(
        compute,
        traffic.columns / link.bandwidth + GATHERS * link.latency,
        max(0.0, traffic.inputs / link.bandwidth - compute),
        max(0.0, traffic.gradients / link.bandwidth - compute * 2 / 3),
        host_seconds(batch_size // num_gpus),
    )


def host_seconds(images: int) -> float:
    """What a rank's main thread takes to feed and to issue a step of that many images."""
    feed = FEED_MS / 1e3 + (images - 128) * FURTHER_IMAGE_US / 1e6
    return feed + STEP_MS / 1e3 + OPERATIONS * LAUNCH


def one_weird_trick_break_even(num_gpus: int) -> float:
    """Images on each GPU at which Krizhevsky's split of 2014 and pairs of columns send equal bytes.

    In the split of 2014, convolutions are data parallel over all GPUs, and each fully connected
    layer is shared out among all.
    """
    pairs = num_gpus // 2
    conv5 = shapes(layers(NETWORK, CLASSES), NETWORK.columns, CROP)["conv5"]
    pool5 = NETWORK.columns * conv5.out_channels * conv5.side**2
    hidden, half = NETWORK.fc_width // 2, CLASSES // 2
    convolutions = 2 * (
        column_parameters(NETWORK, CLASSES, CROP)
        - hidden * (pool5 + 1)
        - (hidden + half) * (2 * hidden + 1)
    )
    gradients = 2 * 4 * ((pairs - 1) / pairs * column_parameters(NETWORK, CLASSES, CROP))
    gradients -= 2 * 4 * (num_gpus - 1) / num_gpus * convolutions
    activations: float = (num_gpus - 1) * (
        HALF * 2 * (pool5 + 2 * NETWORK.fc_width) + FLOAT * CLASSES
    )
    # A pair of columns works on two GPUs' images.
    activations -= 2 * bytes_per_step(NETWORK, CLASSES, CROP, 1, 1, "bf16").columns
    return gradients / activations


def tables() -> str:
    """A line for each number of GPUs and each link."""
    rows = []
    for num_gpus, batch_size in RUNS:
        for link in LINKS:
            step = predict(num_gpus, batch_size, link)
            speed = batch_size / step.seconds
            cores = [f"{speed / num_gpus * cost / 1000:.0f}" for cost in DECODE_MS.values()]
            hidden = [
                "hidden" if part == 0 else f"{1000 * part:.1f}"
                for part in (step.inputs, step.gradients)
            ]
            times = [f"{1000 * step.compute:.1f}", f"{1000 * step.columns:.1f}", *hidden]
            times.append(f"{1000 * step.host:.1f}")
            sizes = [str(size) for size in (num_gpus, batch_size, batch_size // num_gpus)]
            rows.append([*sizes, link.name, *times, f"{speed:,.0f}", step.limit, *cores])
    headings = ["GPUs", "batch", "images a GPU", "link"]
    headings += [f"{part} ms" for part in Prediction._fields]
    headings += ["images/s", "limit"]
    headings += [f"cores a GPU to decode {source}" for source in DECODE_MS]
    return markdown(rows, headings, range(len(headings)))


def break_even_lines() -> str:
    """The batches at which both splits send the same number of bytes."""
    rows = [
        [str(num_gpus), f"{one_weird_trick_break_even(num_gpus):.0f}"] for num_gpus in (2, 8, 64)
    ]
    headings = ["GPUs", "images a GPU where both send the same"]
    return markdown(rows, headings, range(len(headings)))


def main(argv: list[str]) -> None:
    """Print the tables."""
    command_line("python -m alexnet_dali.tools.bench.cost_model", __doc__).parse_args(argv)
    print(tables(), break_even_lines(), sep="\n\n")


if __name__ == "__main__":
    run(main)
