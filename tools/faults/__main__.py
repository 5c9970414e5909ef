"""Break real runs in every way that is known, at random moments, and see what is lost.

    alexnet faults                       all faults, about half an hour on two cores
    alexnet faults --only SIGKILL --times 1

It generates images, trains a tiny network on them, and compares what a broken run ends with, bit by
bit, with a run that nothing happened to. docs/reliability.md sums it up. Disks that are full or
read-only are mounted for the purpose: that needs root.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.faults.outcomes import Fault, Outcome
from alexnet_dali.tools.faults.rows import FAULTS
from alexnet_dali.tools.faults.runs import Bench
from alexnet_dali.tools.tables import records


def main(argv: list[str]) -> None:
    """Try the faults; ValueError if anything was lost."""
    args = _arguments(argv)
    chosen = [one for one in FAULTS if args.only.lower() in one.name.lower()]
    if not chosen:
        raise ValueError(f"no fault is named like {args.only!r}; see --help")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder), random.Random(0))
        bench.prepare()
        rows = [_row(bench, fault, args.times or fault.times) for fault in chosen]
    print(records(rows))
    failed = [str(row["fault"]) for row in rows if row["lost"] != "nothing"]
    if failed:
        raise ValueError(f"something was lost by: {', '.join(failed)}")


def _row(bench: Bench, fault: Fault, times: int) -> dict[str, object]:
    """A line of the table."""
    began, outcomes, remark = time.monotonic(), list[Outcome](), ""
    try:
        for outcome in fault.trials(bench, times):
            outcomes.append(outcome)
            said = f"{fault.name} {len(outcomes)}/{times}: lost {outcome.lost}; saw: {outcome.saw}"
            print(said, file=sys.stderr, flush=True)
    except PermissionError as error:
        remark = f"({error})"
    lost = sorted({outcome.lost for outcome in outcomes} - {"nothing"})
    return {
        "fault": fault.name,
        "tried": len(outcomes),
        "survived": sum(outcome.lost == "nothing" for outcome in outcomes),
        "lost": "; ".join(lost) or "nothing",
        "the user saw": next((one.saw for one in outcomes if one.saw), remark),
        "s": round(time.monotonic() - began),
    }


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet faults", __doc__)
    parser.epilog = "faults: " + "; ".join(fault.name for fault in FAULTS)
    parser.add_argument("--only", default="", metavar="WORDS", help="faults with these words")
    parser.add_argument("--times", type=int, metavar="N", help="trials of each")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
