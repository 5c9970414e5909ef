"""Reproduce the golden losses: 200 steps of configs/small.yaml on two columns, in fp32.

    python -m alexnet_dali.tools.bench.golden --data prepared/tiny-imagenet-10

The images are ten classes of Tiny ImageNet. Both the eager and the compiled response norm must come
within 1e-4 of tests/golden/losses.txt, which holds a `step loss` line for each step.

The learning rate is small on purpose. At the recipe's own rate, a difference in the last bit of a
weight grows to a tenth of the loss within 100 steps, and would hide every change worth finding.

A change that moves these numbers rewrites the file (--write) and says why.
"""

import tempfile
from pathlib import Path

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.launch import train_on_ranks
from alexnet_dali.train.record.metrics import read_metrics

GOLDEN = ROOT / "tests/golden/losses.txt"
TOLERANCE = 1e-4
NUM_STEPS = 200
LR = 3e-5


def main(argv: list[str]) -> None:
    """Train on both paths and compare; ValueError where one of them has other losses."""
    parser = command_line("python -m alexnet_dali.tools.bench.golden", __doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="tiny-imagenet-10, prepared")
    parser.add_argument(
        "--write", action="store_true", help="make the eager path's losses the golden ones"
    )
    args = parser.parse_args(argv)
    Dataset.open(Path(args.data))
    losses = {path: train(args.data, compiled=path == "compiled") for path in ("eager", "compiled")}
    if args.write:
        with atomic_write(GOLDEN) as file:
            file.writelines(
                f"{step} {loss:.6f}\n".encode() for step, loss in enumerate(losses["eager"], 1)
            )
    for path, found in losses.items():
        step, difference = largest_difference(found, read(GOLDEN))
        print(f"{path}: largest difference {difference:.1e}, at step {step} of {NUM_STEPS}")
        if difference > TOLERANCE:
            raise ValueError(
                f"the {path} path's loss at step {step} is {difference:.1e} off; {TOLERANCE:g} is "
                "allowed"
            )


def train(data: str, compiled: bool) -> list[float]:
    """The loss of each step."""
    with tempfile.TemporaryDirectory() as folder:
        options = [str(ROOT / "configs/small.yaml"), "--data.root", data, "--optim.lr", str(LR)]
        options += ["--train.compile", str(compiled).lower(), "--run.dir", folder]
        options += ["--run.log_seconds", "0", "--run.max_steps", str(NUM_STEPS)]
        train_on_ranks([*options, "--run.device", "cpu"], num_ranks=2)
        return list(read_metrics(Path(folder), "train/loss").values())


def read(path: Path) -> list[float]:
    """The losses in a `step loss` file."""
    return [float(line.split()[1]) for line in path.read_text().splitlines()]


def largest_difference(found: list[float], expected: list[float]) -> tuple[int, float]:
    """(step, difference) where two runs are furthest apart.

    ValueError where one is longer.
    """
    differences = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    largest = max(range(len(differences)), key=differences.__getitem__)
    return largest + 1, differences[largest]


if __name__ == "__main__":
    run(main)
