"""Measure baselines for the same work, in turn, round after round, and report medians.

alexnet bench pipeline --data prepared/imagenet    feeding a network
alexnet bench scale --data prepared/imagenet       a list as long as ImageNet's
alexnet bench step                                 a training step on random input
alexnet bench train --data prepared/imagenet       training, with data and without
alexnet bench host --data prepared/imagenet        what Python costs, without any decoding

With --against CHECKOUT, pipeline, train and host measure this project's baselines on another
checkout of it, too, and give ratios.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools.bench import against, feeding, host
from alexnet_dali.tools.bench.against import Command, Other, Rounds
from alexnet_dali.tools.bench.feeding import NEEDS, stores
from alexnet_dali.tools.bench.machine import machine
from alexnet_dali.tools.bench.steps import flops_per_image, step_baselines, train_baselines
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.launch import launcher
from alexnet_dali.tools.tables import records

_BUSY = 0.7
_DEFAULT_STEPS = {"pipeline": 60, "scale": 100, "step": 5, "train": 5, "host": 0}


def main(argv: list[str]) -> None:
    """Run a benchmark and print its table; JSON where asked for."""
    args = _arguments(argv)
    if args.what == "host":
        args.device = "cpu"
    elif args.device == "auto":
        args.device = "cuda" if torch.cuda.device_count() else "cpu"
    other = Other.at(args.against) if args.against else None
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(args, Path(folder))
        if other:
            commands = _with_other(commands, other, args)
        rounds = _run(commands, args.rounds, in_turns=other is not None)
    if args.what == "host":
        rounds = host.with_slopes(rounds)
    report = {
        "benchmark": args.what,
        "rows": [{"name": name, **_medians(measured)} for name, measured in rounds.items()],
        "rounds": args.rounds,
        "batch_size": args.batch_size,
        "device": args.device,
        "machine": machine(),
    }
    if other:
        report["ratios"] = against.ratios(rounds, other)
    else:
        _judge(report, args.recipe)
    _print(report)
    if args.json:
        with atomic_write(Path(args.json)) as file:
            file.write(json.dumps(report, indent=2).encode())


def _run(commands: dict[str, Command], count: int, in_turns: bool) -> Rounds:
    """What each baseline has measured in each round; those that lack something are left out.

    With `in_turns`, every other round goes backwards: neither of a pair is always the first.
    """
    rounds: Rounds = {name: [] for name in commands}
    for number in range(count):
        order = list(commands.items())
        for name, command in reversed(order) if in_turns and number % 2 else order:
            print(f"round {number + 1}/{count}: {name}", file=sys.stderr, flush=True)
            try:
                rounds[name].append(_measure(name, command))
            except ValueError as error:
                if name not in NEEDS:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
                del commands[name], rounds[name]
    return rounds


def _judge(report: dict[str, Any], recipe: str) -> None:
    """Compare rows with each other, and say what limits ours."""
    benchmark, device = report["benchmark"], report["device"]
    if benchmark == "pipeline" and device == "cuda" and recipe == "alexnet":
        _compare_with_decoding_on_a_gpu(report)
    elif benchmark == "pipeline" and device == "cpu":
        _compare_with_decoding(report)
    elif benchmark == "step":
        _compare_with_peak(report)


def _print(report: dict[str, Any]) -> None:
    """A table for each kind of row, then the verdict and the machine."""
    for _, rows in itertools.groupby([*report["rows"], *report.get("ratios", [])], key=tuple):
        print(records(list(rows), ".4g"), "\n")
    print(report.get("verdict", ""))
    print(json.dumps(report["machine"]))


def _with_other(
    commands: dict[str, Command], other: Other, args: argparse.Namespace
) -> dict[str, Command]:
    """What both checkouts have of our own baselines."""
    if args.what == "host":  # whose driver is this checkout's
        return against.both(commands, other, commands)
    if args.what == "train":
        num_gpus = torch.cuda.device_count() if args.device == "cuda" else 0
        names = other.baselines("alexnet_dali.tools.bench.steps", "train_baselines", num_gpus)
        return against.both(commands, other, names)
    commands = {name: command for name, command in commands.items() if name.startswith("ours")}
    names = other.baselines(
        "alexnet_dali.tools.bench.feeding", "baselines", args.device, args.recipe
    )
    return against.both(commands, other, names)


def _commands(args: argparse.Namespace, folder: Path) -> dict[str, Command]:
    if args.what == "host":
        return host.commands(args.data, args.batch_size)
    if args.data:
        # An error in it is better reported here than by each baseline's process
        Dataset.open(Path(args.data))
    if args.what == "pipeline":
        return _pipeline_commands(args, folder)
    if args.what == "scale":
        return {
            "scale": (
                [
                    "-m",
                    "alexnet_dali.tools.bench.scale",
                    str(args.batch_size),
                    str(args.steps),
                    args.data,
                ],
                {},
            )
        }
    return _step_commands(args)


def _step_commands(args: argparse.Namespace) -> dict[str, Command]:
    commands: dict[str, Command] = {}
    num_gpus = torch.cuda.device_count() if args.device == "cuda" else 0
    found = step_baselines if args.what == "step" else train_baselines
    for name, baseline in found(num_gpus).items():
        command = [*launcher(baseline.num_ranks), "-m", "alexnet_dali.tools.bench.steps", name]
        command += [args.device, str(args.batch_size), str(args.steps), args.data or ""]
        # One process gets all cores, as it would without torchrun.
        threads = max(1, len(os.sched_getaffinity(0)) // baseline.num_ranks)
        commands[name] = (command, {"OMP_NUM_THREADS": str(threads)})
    return commands


def _pipeline_commands(args: argparse.Namespace, folder: Path) -> dict[str, Command]:
    commands: dict[str, Command] = {}
    names = feeding.baselines(args.device, args.recipe)
    for name, data in stores(Path(args.data), folder, names).items():
        if find_spec(NEEDS.get(name, "torch")) is None:
            print(f"{name} is left out: {NEEDS[name]} is not installed", file=sys.stderr)
            continue
        command = [
            "-m",
            "alexnet_dali.tools.bench.feeding",
            args.recipe,
            name,
            args.device,
            str(args.batch_size),
            str(args.steps),
            data,
            str(folder),
        ]
        commands[name] = (command, {})
    return commands


def _measure(name: str, command: Command) -> dict[str, Any]:
    """One round of one baseline, in processes of its own."""
    arguments, environment = command
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        raise ValueError(f"{name} failed:\n{result.stderr[-3000:]}")
    return json.loads(lines[-1])


def _busy(row: dict[str, Any], cores: int) -> float:
    """The share of all cores' time that a baseline takes."""
    return row["images_per_second"] * row["cpu_ms_per_image"] / 1000 / cores


def _compare_with_decoding(report: dict[str, Any]) -> None:
    """Add processor time as a multiple of decoding's, and say what limits ours."""
    rows = {row["name"]: row for row in report["rows"]}
    for row in report["rows"]:
        row["cpu_ratio_to_decode"] = row["cpu_ms_per_image"] / rows["decode"]["cpu_ms_per_image"]
    ours, busy = rows["ours"], _busy(rows["ours"], report["machine"]["cores"])
    if busy < _BUSY:
        report["verdict"] = (
            f"Ours keeps the cores {busy:.0%} busy: reading the files is the bottleneck."
        )
        return
    gain = rows["ours-store"]["images_per_second"] / ours["images_per_second"]
    report["verdict"] = (
        f"Ours keeps the cores {busy:.0%} busy; decoding whole images alone costs "
        f"{1 / ours['cpu_ratio_to_decode']:.0%} of its processor time: JPEG decoding is the "
        f"bottleneck. Preparing with --resize 256 makes it {gain:.1f} times as fast."
    )


def _compare_with_decoding_on_a_gpu(report: dict[str, Any]) -> None:
    """Add each row's images/s as a share of decoding's, and say what limits ours."""
    rows = {row["name"]: row for row in report["rows"]}
    for row in report["rows"]:
        row["share_of_decode"] = row["images_per_second"] / rows["decode"]["images_per_second"]
    ours, busy = rows["ours"], _busy(rows["ours"], report["machine"]["cores"])

    def times(name: str, other: str) -> float:
        return rows[name]["images_per_second"] / rows[other]["images_per_second"]

    report["verdict"] = (
        f"Ours feeds {ours['images_per_second']:.0f} images/s, {ours['share_of_decode']:.0%} of "
        f"what decoding whole images alone does on this GPU, and keeps the CPU's cores {busy:.0%} "
        f"busy. Preparing with --resize 256 makes it {times('ours-store', 'ours'):.1f} times as "
        f"fast, the GPU's JPEG engine for all files {times('ours-engine-100', 'ours'):.1f} times. "
        f"Decoded on the CPU, originals are {times('ours-cpu-decoder', 'ours'):.2f} times as fast, "
        f"a store {times('ours-cpu-decoder-store', 'ours-store'):.2f} times."
    )


def _compare_with_peak(report: dict[str, Any]) -> None:
    """Add shares of the machine's peak at each precision, and each row's speed against plain."""
    peaks = {row["name"]: row["gflops"] for row in report["rows"] if "gflops" in row}
    report["peak_gflops"] = peaks
    report["rows"] = [row for row in report["rows"] if row["name"] not in peaks]
    plain, flops = report["rows"][0]["images_per_second"], flops_per_image()
    for row in report["rows"]:
        peak = peaks["peak-" + row["name"].rsplit("-", 1)[1]]
        row["share_of_peak"] = row["images_per_second"] * flops / 1e9 / peak
        row["times_plain_fp32"] = row["images_per_second"] / plain
    measured = [
        f"{peak:.0f} GFLOP/s in {name.removeprefix('peak-')}" for name, peak in peaks.items()
    ]
    report["verdict"] = (
        f"Measured peak: {', '.join(measured)}; a step takes {flops / 1e9:.2f} GFLOP an image."
    )
    if "peak-bf16" not in peaks:
        report["verdict"] += " This processor has no instructions for bf16, which is left out."


def _medians(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each figure over the rounds; None where there is none."""
    figures = {key: [one[key] for one in measured] for key in measured[0]}
    return {
        key: None if None in values else statistics.median(values)
        for key, values in figures.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_line("alexnet bench", __doc__)
    parser.add_argument("what", choices=list(_DEFAULT_STEPS))
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DIR",
        help="prepared folder (all but step); host takes several",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="cuda where there is a GPU",
    )
    parser.add_argument(
        "--recipe",
        choices=["alexnet", "resnet"],
        default="alexnet",
        help="of pipeline: the paper's crops, or RandomResizedCrop and flip (alexnet)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"rounds over all baselines (3; with --against {against.ENOUGH})",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="timed steps in a round (5; pipeline: 60, scale: 100)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        metavar="N",
        help="images a step over all ranks (128); host takes several (128 256)",
    )
    parser.add_argument(
        "--against", metavar="CHECKOUT", help="another checkout of this project to measure, too"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the rows and the machine's description"
    )
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    """The options, which fit together, with their defaults; ValueError where they do not."""
    args = _parser().parse_args(argv)
    if args.what != "step" and not args.data:
        raise ValueError(
            f"{args.what} needs images: expected --data FOLDER, as made by alexnet prep"
        )
    if args.against and args.what not in ("pipeline", "train", "host"):
        raise ValueError(f"--against compares pipeline, train and host, not {args.what}")
    if args.what == "host" and args.steps:
        raise ValueError("host times as many batches as an epoch's end takes; leave --steps out")
    _take_one_value(args)
    args.steps = args.steps or _DEFAULT_STEPS[args.what]
    args.rounds = args.rounds or (against.ENOUGH if args.against else 3)
    return args


def _take_one_value(args: argparse.Namespace) -> None:
    """What only host may have several of becomes a value for the others."""
    args.batch_size = args.batch_size or (host.BATCH_SIZES if args.what == "host" else [128])
    if args.what == "host":
        return
    for name in ("data", "batch_size"):
        values = getattr(args, name) or [None]
        if len(values) > 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} has {len(values)} values; {args.what} takes one")
        setattr(args, name, values[0])


if __name__ == "__main__":
    run(main)
