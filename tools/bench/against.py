"""The same measurement on another checkout of this project, in turn, and what the ratio is."""

import atexit
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CONFIDENCE = 0.95
ENOUGH = 6
"""Rounds from which an interval can hold the median with `CONFIDENCE`."""

Command = tuple[list[str], dict[str, str]]
"""What to run, and the environment that it needs beyond ours."""
Rounds = dict[str, list[dict[str, Any]]]
"""What each round has measured, by baseline."""


class Other(NamedTuple):
    """Another checkout of this project."""

    folder: Path

    @classmethod
    def at(cls, folder: str) -> "Other":
        """ValueError where there is none."""
        path = Path(folder).resolve()
        if not (path / "setup.cfg").is_file() or not (path / "tools/bench").is_dir():
            raise ValueError(
                f"{folder} is no checkout of this project: expected setup.cfg and tools/bench "
                "in it; git worktree add FOLDER COMMIT makes one"
            )
        return cls(path)

    def name(self, baseline: str) -> str:
        """What a baseline is called where it runs on this checkout."""
        return f"{baseline}, {self.folder.name}"

    def command(self, command: Command) -> Command:
        """The same, with this checkout's packages."""
        arguments, environment = command
        arguments = [self._word(word) for word in arguments]
        return arguments, environment | packages_of(self.folder)

    def _word(self, word: str) -> str:
        """What this checkout calls one of our modules, or reads in place of a prepared folder."""
        if has_namespace(self.folder):
            return word
        if (Path(word) / "dataset.yaml").is_file():
            return _in_format_1(word)
        return word.removeprefix("alexnet_dali.")

    def baselines(self, module: str, function: str, *arguments: object) -> list[str]:
        """The names of this checkout's own baselines."""
        if not has_namespace(self.folder):  # they were called contenders then
            function = function.replace("baselines", "contenders")
        script = f"from {self._word(module)} import {function} as f; import json; "
        script += "print(json.dumps([*f("
        script += ", ".join(map(repr, arguments)) + ")]))"
        environment = os.environ | packages_of(self.folder)
        result = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        if result.returncode:
            raise ValueError(f"{self.folder} names no baselines:\n{result.stderr[-2000:]}")
        return json.loads(result.stdout.splitlines()[-1])


def has_namespace(folder: Path) -> bool:
    """Whether a checkout's packages are alexnet_dali.*, as from version 0.3 on."""
    return "alexnet_dali.pipeline" in (folder / "setup.cfg").read_text()


@cache
def packages_of(folder: Path) -> dict[str, str]:
    """The environment in which Python finds a checkout's packages, wherever it is started."""
    if not has_namespace(folder):
        return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    links = tempfile.TemporaryDirectory()
    atexit.register(links.cleanup)
    packages = Path(links.name) / "alexnet_dali"
    packages.mkdir()
    for name in ("model", "pipeline", "tools", "train"):
        (packages / name).symlink_to(folder / name)
    return {"PYTHONPATH": links.name, "PYTHONSAFEPATH": "1"}


@cache
def _in_format_1(folder: str) -> str:
    """Links to a prepared folder's files, with a dataset.yaml as versions before 0.3 expect it."""
    links = tempfile.TemporaryDirectory()
    atexit.register(links.cleanup)
    for path in Path(folder).resolve().iterdir():
        if path.name != "dataset.yaml":
            (Path(links.name) / path.name).symlink_to(path)
    about = yaml.safe_load((Path(folder) / "dataset.yaml").read_text()) | {"format": 1}
    (Path(links.name) / "dataset.yaml").write_text(yaml.safe_dump(about))
    return links.name


def both(commands: dict[str, Command], other: Other, has: Iterable[str]) -> dict[str, Command]:
    """Each of `commands` that the other checkout `has`, too, and the same there behind it."""
    found: dict[str, Command] = {}
    theirs = set(has)
    for name, command in commands.items():
        if name in theirs:
            found |= {name: command, other.name(name): other.command(command)}
        else:
            print(f"{name} is left out: {other.folder} does not have it", file=sys.stderr)
    if not found:
        raise ValueError(f"{other.folder} has none of {', '.join(commands)}; nothing to compare")
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Between which two of `values` their population's median lies, and how likely that is.

    By the sign test, so whatever the distribution: the narrowest pair of order statistics that
    holds it with `CONFIDENCE`, or smallest and largest where there are fewer than `ENOUGH`.
    """
    ordered, count = sorted(values), len(values)

    def outside(rank: int) -> float:
        return 2 * sum(math.comb(count, below) for below in range(rank + 1)) / 2**count

    rank = max([rank for rank in range(count // 2) if 1 - outside(rank) >= CONFIDENCE], default=0)
    return ordered[rank], ordered[count - 1 - rank], max(0.0, 1 - outside(rank))


def ratios(rounds: Rounds, other: Other) -> list[dict[str, Any]]:
    """This checkout / the other, for every figure that is above 0 throughout.

    Each ratio is of two runs of one round; given are their median and its `interval`.
    """
    rows = []
    for name, ours in rounds.items():
        theirs = rounds.get(other.name(name), [])
        for figure in [key for key in ours[0] if key != "batch_size"] if theirs else ():
            pairs = [(one.get(figure), two.get(figure)) for one, two in zip(ours, theirs)]
            found = [one / two for one, two in pairs if one and two and one > 0 and two > 0]
            if len(found) == len(pairs):
                rows.append({"name": name, "figure": figure, **_ratio(found)})
    return rows


def _ratio(found: list[float]) -> dict[str, Any]:
    low, high, confidence = interval(found)
    verdict = "larger" if low > 1 else "smaller" if high < 1 else "can't tell"
    if confidence < CONFIDENCE:
        verdict = f"can't tell: expected {ENOUGH} rounds"
    return {
        "ratio": statistics.median(found),
        "low": low,
        "high": high,
        "confidence": confidence,
        "verdict": verdict,
    }
