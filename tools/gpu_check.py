"""Run the tests marked gpu and every benchmark, and sum them up in one page.

    python -m tools.gpu_check --data prepared/photographs --out gpu-check.md

The page names the machine, every test and every figure. Beside the most telling figures it says
what we expected. Those expectations are drawn from a CPU and from paper; nobody has measured them
on a GPU. Please send the page: the issue template "GPU report" says how.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from tabulate import tabulate

from pipeline.dataset import Dataset
from pipeline.files import atomic_write
from tools import ROOT
from tools.bench.machine import machine
from tools.cli import command_line, run


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
        "pipeline", "ours-engine-100", "share_of_decode", 0.5, 5.0, "more on an A100 or H100 alone"
    ),
]


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
    if args.data:
        Dataset.open(Path(args.data))
    with tempfile.TemporaryDirectory() as folder:
        tests = _tests(Path(folder) / "tests.xml", args.data)
        reports, failures = _benchmarks(commands(args.data, Path(folder)))
    page = summary(tests, reports, failures)
    with atomic_write(Path(args.out)) as file:
        file.write(page.encode())
    print(page)
    failed = [test.name for test in tests if test.outcome == "failed"] + list(failures)
    if failed or not tests:
        raise ValueError(f"{', '.join(failed) or 'the tests'} failed; {args.out} has the reasons")


def commands(data: str | None, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Each benchmark's command, and the report that it writes.

    Without `data`, those that need no images.
    """
    names = ("step", "pipeline", "train") if data else ("step",)
    found = {}
    for name in names:
        report = folder / f"{name}.json"
        command = ["-m", "tools.bench", name, "--device", "cuda", "--json", str(report)]
        found[name] = ([*command, *(["--data", data] if data and name != "step" else [])], report)
    return found


def _tests(report: Path, data: str | None) -> list[Test]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rs", f"--junitxml={report}"]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DATA": os.path.abspath(data) if data else ""}
    )
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
        result = subprocess.run(
            [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        if result.returncode:
            failures[name] = result.stderr.strip()[-1000:]
        else:
            reports[name] = json.loads(report.read_text())
    return reports, failures


def summary(tests: list[Test], reports: dict[str, Any], failures: dict[str, str]) -> str:
    """The page, in Markdown."""
    parts = [
        "# GPU check",
        tabulate(
            [[key, _text(value)] for key, value in machine().items()],
            ["machine", ""],
            tablefmt="github",
        ),
        "## Tests",
        tabulate(tests, ["test", "outcome", "reason"], tablefmt="github"),
        "## Figures against what was expected",
        tabulate(compare(reports), ["figure", "found", "expected", "", "why"], tablefmt="github"),
    ]
    for name, report in reports.items():
        parts += [f"## {name}, batch {report['batch_size']}, median of {report['rounds']} rounds"]
        parts += [tabulate(report["rows"], headers="keys", floatfmt=".4g", tablefmt="github")]
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
    parser = command_line("tools.gpu_check", __doc__)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="prepared photographs, loose originals; without, fewer benchmarks",
    )
    parser.add_argument(
        "--out", default="gpu-check.md", metavar="FILE", help="the page (gpu-check.md)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
