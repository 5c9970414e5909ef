"""A run in one HTML file that opens anywhere, offline: to read, to print, or to send.

    alexnet report runs/alexnet --out alexnet.html

It shows recipe, curves and errors, the classes that are confused, kernels, predictions, neighbours,
the hardest images, and throughput. Images come from the run's data.root unless --data says
otherwise. If they are gone, or there is no checkpoint yet, the page shows the rest and says what is
missing. A run may be reported while it trains.
"""

import argparse
import shlex
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools.bench.machine import machine
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.paper.neighbors import check_alone
from alexnet_dali.tools.report import charts, findings, record
from alexnet_dali.tools.report.findings import Findings
from alexnet_dali.tools.report.record import Record
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.networks import Trained, open_network
from alexnet_dali.train.parallel.ranks import Ranks, join

_WITHOUT_NETWORK = "Everything that needs the network: {}."
_WITHOUT_IMAGES = (
    "Everything that needs the run's images: {}. If they have moved, give their prepared folder "
    "with --data."
)


def main(argv: list[str]) -> None:
    """Write the page; ValueError or OSError where the run, or --data, can't be read."""
    args = _arguments(argv)
    folder = Path(args.run)
    about = record.read(folder)
    missing: list[str] = [] if about.curves else ["Curves: the run has logged nothing yet."]
    found = None
    with join(args.device, num_columns=1) as ranks:
        check_alone(ranks)
        network, trained_on = _network(folder, ranks, missing)
        try:
            if network:
                dataset = Dataset.open(args.data or str(about.config.data.root))
                found = findings.look(network, trained_on, dataset, ranks)
        except (ValueError, OSError) as error:
            if args.data:
                raise
            missing.append(_WITHOUT_IMAGES.format(error))
    page = _page(about, network, found, missing, args)
    with atomic_write(Path(args.out)) as file:
        file.write(page.encode(errors="replace"))  # names may be bytes of any kind
    print(f"{args.out}: {len(page) / 1e6:.1f} MB")
    for one in missing:
        print(f"left out: {one}")


def _network(folder: Path, ranks: Ranks, missing: list[str]) -> tuple[Trained | None, str]:
    """The network of the newest sound checkpoint, and the fingerprint of its images.

    If there is none, `missing` says why.
    """
    try:
        sound = checkpoint.newest_sound(folder / "checkpoints")
        if sound is None:
            missing.append(
                _WITHOUT_NETWORK.format("there is no checkpoint yet. One comes after each epoch")
            )
            return None, ""
        path, state, damaged = sound
        missing += [f"The newest checkpoint: {why}. The one before it is shown." for why in damaged]
        return open_network(path, ranks.device), state["dataset"]
    except ValueError as error:
        missing.append(_WITHOUT_NETWORK.format(error))
        return None, ""


def _page(
    about: Record,
    network: Trained | None,
    found: Findings | None,
    missing: list[str],
    args: argparse.Namespace,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "date": "{:%-d %B %Y, %H:%M} UTC".format}
    again = f"runs/{about.name}-again"
    more = ["--data", args.data] if args.data else []
    return environment.get_template("report.html").render(
        run=about,
        found=found,
        missing=missing,
        step=network.step if network else None,
        kernels=charts.kernel_blocks(network) if network else None,
        charts=charts.of_curves(about.curves) if about.curves else None,
        speed=about.speed,
        speed_charts=charts.of_speed(about.speed, about.curves) if about.speed else None,
        machine=machine(),
        now=datetime.now(UTC),
        train_command=shlex.join(
            ["alexnet", "train", str(about.folder / "config.yaml"), "--run.dir", again]
        ),
        report_command=shlex.join(["alexnet", "report", args.run, *more, "--out", args.out]),
    )


def _percent(rate: float, digits: int = 1) -> str:
    """`16.6 %`, on one line."""
    return f"{100 * rate:.{digits}f}\N{NO-BREAK SPACE}%"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet report", __doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("others", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--data", metavar="DIR", help="prepared folder (that of the RUN)")
    parser.add_argument("--out", required=True, metavar="FILE.html", help="the page to write")
    devices = ["auto", "cpu", "cuda"]
    parser.add_argument("--device", choices=devices, default="auto", help="to compute on (auto)")
    args = parser.parse_args(argv)
    if args.others:
        runs = shlex.join([args.run, *args.others])
        raise ValueError(
            f"found {1 + len(args.others)} runs, and a report shows one; to compare them: "
            f"alexnet figures curves {runs} --out curves.png"
        )
    if Path(args.out).suffix != ".html":
        raise ValueError(f"--out is {args.out}; expected a name that ends in .html")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    run(main)
