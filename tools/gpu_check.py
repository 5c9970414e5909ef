"""Run the tests marked gpu and every benchmark, and sum them up in one page.

    alexnet gpu-check --data prepared/photographs --out gpu-check.md
    alexnet gpu-check --data prepared/photographs --parts pipeline train --rounds 1

--parts and --rounds do less. The page names the machine, every test and every figure. Beside the
most telling figures it says what we expected. Those expectations are drawn from a CPU and from
paper; nobody has measured them on a GPU. Please send the page: the issue template "GPU report" says
how.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.bench.machine import machine
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.tables import markdown, records


class Expectation(NamedTuple):
    """Where a figure should roughly lie."""

    benchmark: str
    row: str
    figure: str
    low: float
    high: float
    why: str


EXPECTATIONS = [
    Expectation("step", "one-process-fp32", "share_of_peak", 0.2, 1.0, "0.67 on a CPU"),
    Expectation(
        "step", "one-process-tf32", "share_of_peak", 0.1, 0.7, "pooling and norms wait for memory"
    ),
    Expectation(
        "step", "one-process-bf16", "share_of_peak", 0.05, 0.5, "as tf32, with faster products"
    ),
    Expectation(
        "step", "one-process-captured-bf16", "share_of_peak", 0.05, 0.6, "no less than eager steps"
    ),
    Expectation("step", "one-process-fp32", "times_plain_fp32", 1.0, 4.0, "1.5 on a CPU"),
    Expectation("step", "columns-fp32", "times_plain_fp32", 1.2, 8.0, "up to twice one process"),
    Expectation(
        "train",
        "with-data-fp32",
        "data_wait_fraction",
        0.0,
        0.05,
        "augmenting hides behind computing",
    ),
    Expectation(
        "train",
        "without-data-fp32",
        "data_wait_fraction",
        0.0,
        0.01,
        "there is nothing to wait for",
    ),
    Expectation(
        "train",
        "with-data-bf16",
        "data_wait_fraction",
        0.0,
        0.3,
        "originals may limit the fastest steps",
    ),
    Expectation(
        "pipeline",
        "ours",
        "share_of_decode",
        0.5,
        2.0,
        "0.63 on a CPU; it decodes regions, then resizes",
    ),
    Expectation("pipeline", "ours-store", "share_of_decode", 1.0, 10.0, "2.0 on a CPU"),
    Expectation(
        "pipeline",
        "ours-cpu-decoder",
        "share_of_decode",
        0.05,
        2.0,
        "a core decodes some 300 images/s; how many cores there are decides",
    ),
    Expectation(
        "pipeline",
        "ours-cpu-decoder-store",
        "share_of_decode",
        0.1,
        5.0,
        "a core decodes some 1,000 images/s; how many cores there are decides",
    ),
    Expectation("host", "originals-128", "main_ms", 0.2, 5.0, "1.1 on two cores of a CPU"),
    Expectation("host", "originals-128", "threads_ms", 0.4, 10.0, "2.7 on two cores of a CPU"),
    Expectation("host", "step", "operations", 100, 170, "counted on tensors without values"),
    Expectation(
        "pipeline", "ours-engine-100", "share_of_decode", 0.5, 5.0, "more on an A100 or H100 alone"
    ),
]


NEED_DATA = ("pipeline", "train", "host")
PARTS = ("tests", "step", *NEED_DATA)


class Test(NamedTuple):
    """What became of one test: passed, skipped or failed, with the reason."""

    name: str
    outcome: str
    reason: str


def main(argv: list[str]) -> None:
    """Run everything, write the page and print it.

    ValueError where there is no GPU, or something failed.
    """
    args = _arguments(argv)
    if not torch.cuda.device_count():
        raise ValueError(
            "no GPU was found; `make test` runs the tests for CPUs, `make rehearse` those that "
            "emulate GPUs"
        )
    if "tests" in args.parts and not (ROOT / "tests").is_dir():
        raise ValueError(
            "the tests are not installed: run this in a checkout (pip install -e '.[dev]'), or "
            f"give --parts {' '.join(name for name in args.parts if name != 'tests')}"
        )
    for folder in args.data:
        Dataset.open(Path(folder))
    with tempfile.TemporaryDirectory() as scratch:
        tests = []
        if "tests" in args.parts:
            tests = _tests(Path(scratch) / "tests.xml", args.data)
        found = commands(args.parts, args.data, args.rounds, Path(scratch))
        reports, failures = _benchmarks(found)
    page = summary(tests, reports, failures)
    with atomic_write(Path(args.out)) as file:
        file.write(page.encode())
    print(page)
    failed = [test.name for test in tests if test.outcome == "failed"] + list(failures)
    if "tests" in args.parts and not tests:
        failed.append("the tests")
    if failed:
        raise ValueError(f"{', '.join(failed)} failed; {args.out} has the reasons")


def commands(
    parts: Sequence[str], data: Sequence[str], rounds: int | None, folder: Path
) -> dict[str, tuple[list[str], Path]]:
    """The command of each part that is a benchmark, and the report that it writes.

    `data` may be several folders for host; the others take the first.
    """
    found = {}
    for name in parts:
        if name == "tests":
            continue
        report = folder / f"{name}.json"
        command = [
            "-m",
            "alexnet_dali.tools",
            "bench",
            name,
            "--device",
            "cuda",
            "--json",
            str(report),
        ]
        if name in NEED_DATA:
            command += ["--data", *(data if name == "host" else data[:1])]
        if rounds:
            command += ["--rounds", str(rounds)]
        found[name] = command, report
    return found


def _tests(report: Path, data: Sequence[str]) -> list[Test]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rs", f"--junitxml={report}"]
    photographs = os.path.abspath(data[0]) if data else ""
    subprocess.run(command, cwd=ROOT, env=os.environ | {"DATA": photographs})
    return read_tests(report) if report.is_file() else []


def read_tests(report: Path) -> list[Test]:
    """The tests of a JUnit report."""
    tests = []
    for case in ElementTree.parse(report).iter("testcase"):
        trouble = next(
            (child for child in case if child.tag in ("failure", "error", "skipped")), None
        )
        outcome = (
            "passed" if trouble is None else "skipped" if trouble.tag == "skipped" else "failed"
        )
        reason = "" if trouble is None else trouble.get("message", "").splitlines()[0][:200]
        tests.append(Test(case.get("name", "").replace("_", " "), outcome, reason))
    return tests


def _benchmarks(
    commands: dict[str, tuple[list[str], Path]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The reports by benchmark, and the errors of benchmarks that failed."""
    reports, failures = {}, {}
    for name, (command, report) in commands.items():
        print(f"\n$ python {' '.join(command)}", flush=True)
        result = subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True)
        if result.returncode:
            failures[name] = result.stderr.strip()[-1000:]
        else:
            reports[name] = json.loads(report.read_text())
    return reports, failures


def summary(tests: list[Test], reports: dict[str, Any], failures: dict[str, str]) -> str:
    """The page, in Markdown."""
    parts = [
        "# GPU check",
        markdown([[key, _text(value)] for key, value in machine().items()], ["machine", ""]),
        "## Tests",
        markdown(tests, ["test", "outcome", "reason"]),
        "## Figures against what was expected",
        markdown(compare(reports), ["figure", "found", "expected", "", "why"]),
    ]
    for name, report in reports.items():
        parts += [f"## {name}, batch {_text(report['batch_size'])}, {report['rounds']} rounds"]
        parts += [records(report["rows"], ".4g")]
        parts += [report["verdict"]] if report.get("verdict") else []
    for name, message in failures.items():
        parts += [f"## {name} failed", f"```\n{message}\n```"]
    return "\n\n".join(parts) + "\n"


def compare(reports: dict[str, Any]) -> list[list[str]]:
    """A line for each expectation whose figure was measured."""
    lines = []
    for one in EXPECTATIONS:
        rows = {row["name"]: row for row in reports.get(one.benchmark, {"rows": []})["rows"]}
        if one.row not in rows:
            continue
        found = rows[one.row][one.figure]
        surprise = "" if one.low <= found <= one.high else "**a surprise**"
        name = f"{one.benchmark}: {one.row}, {one.figure}"
        lines.append([name, f"{found:.3g}", f"{one.low:g} to {one.high:g}", surprise, one.why])
    return lines


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet gpu-check", __doc__)
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DIR",
        help="prepared photographs, loose originals; without, fewer benchmarks. Further folders, "
        "such as stores of them, are for host alone",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (all)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each benchmark (3)")
    parser.add_argument(
        "--out", default="gpu-check.md", metavar="FILE", help="the page (gpu-check.md)"
    )
    args = parser.parse_args(argv)
    lacking = [] if args.data else [name for name in args.parts or () if name in NEED_DATA]
    if lacking:
        raise ValueError(f"{', '.join(lacking)}: expected --data FOLDER, prepared photographs")
    args.parts = args.parts or [name for name in PARTS if args.data or name not in NEED_DATA]
    return args


if __name__ == "__main__":
    run(main)
