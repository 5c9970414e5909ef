"""Measure ways of doing the same work, in turn, round after round, and report medians.

python -m tools.bench step                              the network's step on random input
python -m tools.bench train --data prepared/imagenet    training, and on one batch that is there already
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, Python looks in tools/ and not in the project
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from pipeline.files import atomic_write
from tools.bench_ways import STEP_WAYS, TRAIN_WAYS, Way
from tools.cli import run


def main(argv: list[str]) -> None:
    """Run a benchmark as the arguments say, print its table, and write JSON and a plot where asked for."""
    args = _arguments(argv)
    ways = STEP_WAYS if args.what == "step" else TRAIN_WAYS
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, way in ways.items():
            print(f"round {number + 1}/{args.rounds}: {name}", file=sys.stderr, flush=True)
            rounds[name].append(_measure(name, way, args))
    report = {
        "benchmark": args.what,
        "rows": [{"name": name, **_medians(measured)} for name, measured in rounds.items()],
        "rounds": args.rounds,
        "batch_size": args.batch_size,
        "machine": _machine(),
    }
    print(tabulate(report["rows"], headers="keys", floatfmt=".4g", tablefmt="github"))
    print(json.dumps(report["machine"]))
    if args.json:
        with atomic_write(Path(args.json)) as file:
            file.write(json.dumps(report, indent=2).encode())
    if args.plot:
        _plot(report, Path(args.plot))


def _measure(name: str, way: Way, args: argparse.Namespace) -> dict[str, float]:
    """One round of one way, in processes of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={way.num_ranks}"]
    command += ["-m", "tools.bench_ways", name, str(args.batch_size), str(args.steps), args.data or ""]
    # One process gets all cores, as it would without torchrun.
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // way.num_ranks))}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        raise ValueError(f"{name} failed:\n{result.stderr[-3000:]}")
    return json.loads(lines[-1])


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in measured) for key in measured[0]}


def _machine() -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":")
    return {
        "cpu": cpu.split(":")[1].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "nvidia-dali-cuda120", "numpy")},
    }


def _plot(report: dict[str, Any], path: Path) -> None:
    """Bars of images/s, a way each."""
    from matplotlib.figure import Figure

    rows = report["rows"][::-1]
    figure = Figure(figsize=(8, 1 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["name"] for row in rows], [row["images_per_second"] for row in rows], color="#4c72b0")
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel("images per second")
    axes.set_title(f"{report['benchmark']}, batch {report['batch_size']}, {report['machine']['cores']} cores")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["step", "train"])
    parser.add_argument("--data", metavar="DIR", help="prepared folder (train)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all ways (3)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps a round and way (5)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images a step over all ranks (128)")
    parser.add_argument("--json", metavar="FILE", help="write the rows and the machine's description")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the rows")
    args = parser.parse_args(argv)
    if args.what == "train" and not args.data:
        raise ValueError("train needs images: expected --data FOLDER, as made by tools/prep_imagenet.py")
    return args


if __name__ == "__main__":
    run(main)
