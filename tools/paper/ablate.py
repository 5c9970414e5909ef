"""The paper's comparisons: train the network and its variants from several seeds, in one table.

    alexnet ablate --data prepared/imagenet --config configs/alexnet.yaml --nproc 2
    alexnet ablate --data prepared/imagenette --seeds 3 --variants no-dropout tanh

Variants are the files of configs/variants. Each run is a folder in --out. If interrupted, rerun the
same command to resume: finished runs are kept. Further options, such as --train.epochs 30, go to
every run.

Errors are those of the central crops. Their 95 % intervals cover the choice of seeds and images;
differences are taken seed by seed and image by image. One seed gives no interval. Where 0 is in a
difference's interval, it is undecided, and the table says how many seeds would decide it if their
mean and spread stayed as they are.

The training error is the mean over the last epoch, with that run's dropout, crops and lighting. Do
not compare it between runs that differ in those.
"""

import argparse
import math
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t
from tqdm import tqdm

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.launch import train_on_ranks
from alexnet_dali.tools.paper import runs
from alexnet_dali.tools.paper.drawing import save_figure
from alexnet_dali.tools.tables import markdown
from alexnet_dali.train.checkpoints.run_folder import check_same_run
from alexnet_dali.train.config import load
from alexnet_dali.train.networks import judge, open_network
from alexnet_dali.train.parallel.ranks import join
from alexnet_dali.train.record.metrics import read_metrics

VARIANTS = ROOT / "configs/variants"
WHOLE = "whole"
_MOST_SEEDS = 1000
_OWN_OPTIONS = ("--train.seed", "--run.dir", "--data.root", "--config")


class Claim(NamedTuple):
    """How a variant's top-1 error differs from the whole network's, in points, and who says so."""

    sign: int
    text: str


CLAIMS = {
    "half-column": Claim(1, "+1.7"),
    "no-response-norm": Claim(1, "+1.4"),
    "no-overlapping-pooling": Claim(1, "+0.4"),
    "no-cross-talk": Claim(1, "+1.2 (2012 code's log)"),
    "cross-talk-at-conv4": Claim(1, "worse (2012 code's log)"),
    "without-conv3": Claim(1, "about +2"),
    "without-conv4": Claim(1, "about +2"),
    "without-conv5": Claim(1, "about +2"),
    "no-dropout": Claim(1, "substantial overfitting"),
    "no-crops-and-flips": Claim(1, "substantial overfitting"),
    "no-lighting": Claim(1, "more than +1"),
    "sixth-convolution": Claim(-1, "-1.7 (pre-trained)"),
}


class Run(NamedTuple):
    """One training."""

    variant: str
    seed: int
    folder: Path
    options: list[str]  # of train


class Row(NamedTuple):
    """A line of the table: error rates with their intervals."""

    variant: str
    train_error: float
    error: float
    error_range: tuple[float, float]
    difference: float
    difference_range: tuple[float, float]
    seeds_needed: float  # for a range without 0; infinite where no number of seeds would do


def main(argv: list[str]) -> None:
    """Train what is missing, and write OUT/ablation.md and its plot.

    ValueError where a run fails.
    """
    args, more = _arguments(argv)
    out, variants = Path(args.out), [WHOLE, *dict.fromkeys(args.variants)]
    dataset = Dataset.open(Path(args.data))
    all_runs = [_run(name, seed, args, more) for seed in range(args.seeds) for name in variants]
    _train_all([one for one in all_runs if not _is_finished(one, dataset)], args)
    wrong = {
        name: np.stack([_wrong(one, dataset) for one in all_runs if one.variant == name])
        for name in variants
    }
    train_errors = {
        name: [_train_error(one, dataset) for one in all_runs if one.variant == name]
        for name in variants
    }
    rows = compare(wrong, {name: float(np.mean(errors)) for name, errors in train_errors.items()})
    text = table(rows, args.seeds, len(dataset.val))
    with atomic_write(out / "ablation.md") as file:
        file.write(text.encode())
    save_figure(plot(rows, args.seeds), out / "ablation.png")
    print(text)


def _run(variant: str, seed: int, args: argparse.Namespace, more: list[str]) -> Run:
    folder = Path(args.out) / f"{variant}-seed{seed}"
    options = [args.config]
    if variant != WHOLE:
        options += ["--config", str(VARIANTS / f"{variant}.yaml")]
    options += ["--data.root", args.data, "--train.seed", str(seed), "--run.dir", str(folder)]
    options += more
    return Run(variant, seed, folder, options)


def _train_all(missing: list[Run], args: argparse.Namespace) -> None:
    with tqdm(total=len(missing), unit="run") as bar:
        for _ in _trained(missing, args):
            bar.update()


def _trained(missing: list[Run], args: argparse.Namespace) -> Iterator[None]:
    """Train the runs in worker processes or, on several ranks, one after another."""
    if args.nproc > 1:
        for one in missing:
            _train(one, args.nproc)
            yield
        return
    with runs.workers(args.at_once) as pool:
        for future in as_completed([pool.submit(_train, one) for one in missing]):
            yield future.result()


def _is_finished(one: Run, dataset: Dataset) -> bool:
    """Whether the run is complete; ValueError where its folder holds another one."""
    config = load(one.options)
    check_same_run(one.folder, config, dataset.fingerprint)
    if not (one.folder / "finished").is_file():
        return False
    # A run that was stopped early by its options is complete only as long as they are given.
    steps = yaml.safe_load((one.folder / "config.yaml").read_text())["run"]["max_steps"]
    return steps == config.run.max_steps


def _train(one: Run, num_ranks: int = 1) -> None:
    """Train, or resume; ValueError or OSError, with the folder, where that fails."""
    (one.folder / "finished").unlink(missing_ok=True)
    try:
        if num_ranks == 1:
            runs.train(load(one.options))
        else:
            train_on_ranks(one.options, num_ranks)
    except ValueError as error:
        raise ValueError(f"{one.folder}: {error}") from error
    except OSError as error:
        raise OSError(f"{one.folder}: {error}") from error
    (one.folder / "finished").touch()


def _wrong(one: Run, dataset: Dataset) -> NDArray[np.bool_]:
    """[N]: which validation images the network gets wrong."""
    with join(load(one.options).run.device, num_columns=1) as ranks:
        network = open_network(one.folder, ranks.device)
        return judge([network], dataset, ranks, num_views=1)[0].label_ranks >= 1


def _train_error(one: Run, dataset: Dataset) -> float:
    """Mean training error of the last epoch: each line is a mean over the steps since the last."""
    errors = read_metrics(one.folder, "train/top1_error")
    if not errors:
        raise ValueError(
            f"{one.folder} has logged no training error; train for longer, or with a smaller "
            "--run.log_seconds"
        )
    epoch_began = max(errors) - len(dataset.train) // load(one.options).train.batch_size
    weights = np.minimum(np.diff([0, *errors]), np.array(list(errors)) - epoch_began).clip(min=0)
    return float(np.average(list(errors.values()), weights=weights))


def compare(wrong: dict[str, NDArray[np.bool_]], train_errors: dict[str, float]) -> list[Row]:
    """A row for each network, from which images it gets wrong, [seeds, images].

    The first is the whole network.
    """
    whole = next(iter(wrong.values()))
    rows = []
    for variant, one in wrong.items():
        change = one.astype(np.int8) - whole
        errors = (train_errors[variant], float(one.mean()), interval(one))
        rows.append(
            Row(variant, *errors, float(change.mean()), interval(change), seeds_needed(change))
        )
    return rows


def interval(values: NDArray) -> tuple[float, float]:
    """95 % interval of the mean of values [seeds, images]; infinite for one seed.

    It combines Student's interval over seeds and the normal one over images. It is a little too
    wide: what varies with both is counted in both.
    """
    seeds = len(values)
    half = float(_half_width(values, seeds)) if seeds > 1 else math.inf
    return float(values.mean()) - half, float(values.mean()) + half


def seeds_needed(values: NDArray) -> float:
    """Fewest seeds whose interval would leave out 0, at this mean and these deviations.

    Infinite where the images alone leave 0 in, or more than 1,000 seeds would be needed, or one
    seed says nothing of their spread.
    """
    if len(values) == 1:
        return math.inf
    counts = np.arange(2, _MOST_SEEDS + 1)
    enough = counts[_half_width(values, counts) < abs(values.mean())]
    return float(enough[0]) if enough.size else math.inf


def _half_width(values: NDArray, seeds: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Half of the interval that `seeds` seeds with the deviations of `values` would give."""
    over_images = 1.96 * values.mean(0).std() / np.sqrt(values.shape[1])
    over_seeds = t.ppf(0.975, np.subtract(seeds, 1)) * values.mean(1).std(ddof=1) / np.sqrt(seeds)
    return np.hypot(over_images, over_seeds)


def table(rows: list[Row], num_seeds: int, num_images: int) -> str:
    """Markdown: top-1 errors in per cent, differences in points."""
    lines = []
    for row in rows:
        line = [
            row.variant,
            f"{100 * row.train_error:.1f}",
            f"{100 * row.error:.1f}{_in_brackets(row.error_range, '.1f')}",
        ]
        if row.variant != WHOLE:
            claim = CLAIMS.get(row.variant)
            line += [
                f"{100 * row.difference:+.1f}{_in_brackets(row.difference_range, '+.1f')}",
                claim.text if claim else "not said",
                verdict(row, claim),
            ]
        lines.append(line)
    headings = [
        "network",
        "training error, %",
        "top-1 error, %",
        "difference",
        "the paper's",
        "the paper's sign",
    ]
    seeds = f"{num_seeds} seeds" if num_seeds > 1 else "one seed"
    covered = _covered(num_seeds, "in brackets")
    note = f"{seeds}, {num_images} validation images, central crops; {covered}."
    return markdown(lines, headings) + f"\n\n{note}\n"


def _in_brackets(ends: tuple[float, float], form: str) -> str:
    """The ends of an interval in points, behind a number; empty where they are not known."""
    low, high = (100 * end for end in ends)
    return f" ({low:{form}} to {high:{form}})" if math.isfinite(low) else ""


def _covered(num_seeds: int, where: str) -> str:
    """What the intervals cover, and where they are shown."""
    if num_seeds == 1:
        return "one seed gives no interval"
    return f"{where}: 95 % intervals over seeds and images"


def verdict(row: Row, claim: Claim | None) -> str:
    """Whether the difference has the claimed sign, as far as its interval decides that."""
    low, high = row.difference_range
    if low > 0 or high < 0:
        return "" if claim is None else "yes" if row.difference * claim.sign > 0 else "no"
    if math.isinf(low):
        return "undecided: one seed"
    if math.isinf(row.seeds_needed):
        return "undecided: more images are needed, too"
    return f"undecided: {row.seeds_needed:.0f} seeds would be needed"


def plot(rows: list[Row], num_seeds: int) -> Figure:
    """Differences from the whole network with their intervals."""
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    variants = rows[1:][::-1]
    middle = np.array([100 * row.difference for row in variants])
    ends = 100 * np.array([row.difference_range for row in variants]).reshape(-1, 2).T
    bars = np.where(np.isfinite(ends), np.abs(ends - middle), 0)
    axes.errorbar(middle, range(len(variants)), xerr=bars, fmt="o", capsize=3)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_yticks(range(len(variants)), [row.variant for row in variants])
    axes.set_xlabel(
        f"top-1 error less that of the whole network ({100 * rows[0].error:.1f} %), points\n"
        + _covered(num_seeds, "bars")
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    known = sorted(path.stem for path in VARIANTS.glob("*.yaml"))
    parser = command_line("alexnet ablate", __doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument(
        "--config", default="configs/small.yaml", metavar="FILE", help="the whole network's recipe"
    )
    parser.add_argument(
        "--out",
        default="ablation",
        metavar="DIR",
        help="folder for runs, table and plot (ablation)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs of each network (3)"
    )
    parser.add_argument(
        "--variants", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known)
    )
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="ranks of each run (1)")
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="runs at the same time, all on one GPU (1)",
    )
    args, more = parser.parse_known_args(argv)
    _check(args, more)
    return args, more


def _check(args: argparse.Namespace, more: list[str]) -> None:
    """ValueError where the arguments do not go together."""
    if min(args.seeds, args.nproc, args.at_once) < 1:
        raise ValueError("--seeds, --nproc and --at-once: expected 1 or more")
    if args.nproc > 1 and args.at_once > 1:
        raise ValueError(
            "--nproc and --at-once are both above 1; runs of several ranks go one after another"
        )
    own = [option for option in more if option.split("=")[0] in _OWN_OPTIONS]
    if own:
        raise ValueError(
            f"{', '.join(own)}: chosen for each run by --seeds, --out, --data and --variants"
        )


if __name__ == "__main__":
    run(main)
