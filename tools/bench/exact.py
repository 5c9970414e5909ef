"""How far the losses of runs that should be the same are apart.

    python -m alexnet_dali.tools.bench.exact runs/exact-1 runs/exact-2 runs/exact-4

The first run is compared with each of the others, over the steps that both have logged, and over
both losses. With `train.precision: fp64`, any number of ranks on any machines gives the same
losses, up to rounding in the last digits.
"""

from pathlib import Path

from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.tables import records
from alexnet_dali.train.record.metrics import read_metrics

_TAGS = ("train/loss", "val/loss")


def main(argv: list[str]) -> None:
    """Print a table; ValueError where runs have no steps in common."""
    parser = command_line("python -m alexnet_dali.tools.bench.exact", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of two runs or more")
    first, *others = parser.parse_args(argv).runs
    if not others:
        raise ValueError(f"found one run, {first}; expected two or more")
    print(records([{"run": other, **compare(Path(first), Path(other))} for other in others], ".1e"))


def compare(first: Path, other: Path) -> dict[str, float]:
    """How many steps two runs have both logged, and their largest difference, by tag."""
    row: dict[str, float] = {}
    for tag in _TAGS:
        one, two = read_metrics(first, tag), read_metrics(other, tag)
        both = sorted(one.keys() & two.keys())
        if not both and tag == _TAGS[0]:
            raise ValueError(
                f"{first} and {other} have logged no step in common; expected runs with "
                "run.log_seconds: 0"
            )
        row |= {f"{tag}, steps": len(both)}
        row |= {f"{tag}, difference": max((abs(one[step] - two[step]) for step in both), default=0)}
    return row


if __name__ == "__main__":
    run(main)
