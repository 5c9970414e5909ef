"""The paper's comparisons: the whole network and variants of it, trained from several seeds, in one table.

python -m tools.ablate --data prepared/imagenet --config configs/alexnet.yaml --out ablation --nproc 2
python -m tools.ablate --data prepared/tiny --config configs/small.yaml --out ablation --seeds 3 --variants no-dropout

Variants are the files of configs/variants. Each run is a folder in OUT, and the same command goes on where it was
stopped; runs that are complete are not run again. Further options, such as --train.epochs 30, go to every run.
Errors are those of the central crops; intervals hold 95 % of 2,000 resamplings of seeds and images, differences being
taken seed by seed and image by image.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # as a script, Python looks in tools/ and not in the project
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tabulate import tabulate
from tqdm import tqdm

from pipeline.dataset import Dataset
from pipeline.files import atomic_write
from tools.cli import run
from tools.drawing import save_figure
from tools.networks import newest, open_network, predict
from train.config import differing_keys, load
from train.distributed import join

ROOT = Path(__file__).resolve().parent.parent
WHOLE = "whole"
RESAMPLINGS = 2000


class Claim(NamedTuple):
    """How the variant's top-1 error differs from the whole network's, in points, and who says so."""

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
    error: float
    error_range: tuple[float, float]
    difference: float
    difference_range: tuple[float, float]


def main(argv: list[str]) -> None:
    """Train what is missing and write OUT/ablation.md and its plot; ValueError where a run fails."""
    args, more = _arguments(argv)
    out, variants = Path(args.out), [WHOLE, *args.variants]
    dataset = Dataset.open(Path(args.data))
    runs = [_run(variant, seed, args, more) for seed in range(args.seeds) for variant in variants]
    _train_all(runs, args)
    wrong = {name: np.stack([_wrong(one, dataset) for one in runs if one.variant == name]) for name in variants}
    rows = compare(wrong)
    text = table(rows, args.seeds, len(dataset.val))
    with atomic_write(out / "ablation.md") as file:
        file.write(text.encode())
    save_figure(plot(rows), out / "ablation.png")
    print(text)


def _run(variant: str, seed: int, args: argparse.Namespace, more: list[str]) -> Run:
    folder = Path(args.out) / f"{variant}-seed{seed}"
    options = [args.config]
    if variant != WHOLE:
        path = ROOT / "configs/variants" / f"{variant}.yaml"
        sized = path.with_stem(f"{variant}-{Path(args.config).stem}")
        options += ["--config", str(sized if sized.is_file() else path)]
    options += ["--data.root", args.data, "--train.seed", str(seed), "--run.dir", str(folder), *more]
    return Run(variant, seed, folder, options)


def _train_all(runs: list[Run], args: argparse.Namespace) -> None:
    missing = [one for one in runs if not _is_finished(one)]
    with ThreadPoolExecutor(args.at_once) as pool, tqdm(total=len(missing), unit="run") as bar:
        try:
            for future in as_completed([pool.submit(_train, one, args) for one in missing]):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_finished(one: Run) -> bool:
    """Whether the run is complete; ValueError where its folder holds another one."""
    if not (one.folder / "finished").is_file():
        return False
    changed = differing_keys(load(one.options), yaml.safe_load((one.folder / "config.yaml").read_text()))
    if changed:
        raise ValueError(f"{one.folder} was trained otherwise ({'; '.join(changed)}); choose another --out")
    return True


def _train(one: Run, args: argparse.Namespace) -> None:
    """Train, or go on; ValueError where that fails."""
    one.folder.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, len(os.sched_getaffinity(0)) // args.at_once))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.nproc}"] if args.nproc > 1 else []
    command = [sys.executable, *launch, "-m", "train", *one.options, "--data.num_threads", threads]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"{one.folder}: training failed with status {result.returncode}:\n{result.stderr[-2000:]}")
    (one.folder / "finished").touch()


def _wrong(one: Run, dataset: Dataset) -> NDArray[np.bool_]:
    """[N]: which validation images the network gets wrong."""
    with join("auto", num_columns=1) as ranks:
        network = open_network(newest(one.folder), ranks.device)
        scores, labels = predict(network, dataset, ranks, num_views=1)
    return scores.argmax(1) != labels


def compare(wrong: dict[str, NDArray[np.bool_]]) -> list[Row]:
    """A row for each network from which images it gets wrong, [seeds, images]; the first is the whole network."""
    rng = np.random.default_rng(0)
    whole = next(iter(wrong.values()))
    seeds, images = whole.shape
    draws = [(rng.integers(seeds, size=seeds), rng.integers(images, size=images)) for _ in range(RESAMPLINGS)]

    def interval(values: NDArray) -> tuple[float, float]:
        low, high = np.percentile([values[np.ix_(*draw)].mean() for draw in draws], [2.5, 97.5])
        return float(low), float(high)

    rows = []
    for variant, one in wrong.items():
        change = one.astype(np.int8) - whole
        rows.append(Row(variant, float(one.mean()), interval(one), float(change.mean()), interval(change)))
    return rows


def table(rows: list[Row], num_seeds: int, num_images: int) -> str:
    """Markdown: top-1 errors in per cent, differences in points."""
    lines = []
    for row in rows:
        low, high = (100 * end for end in row.error_range)
        line = [row.variant, f"{100 * row.error:.1f} ({low:.1f} to {high:.1f})"]
        if row.variant != WHOLE:
            low, high = (100 * end for end in row.difference_range)
            claim = CLAIMS.get(row.variant)
            line += [f"{100 * row.difference:+.1f} ({low:+.1f} to {high:+.1f})", claim.text if claim else "not said"]
            line += [verdict(row, claim)]
        lines.append(line)
    headings = ["network", "top-1 error, %", "difference", "the paper's", "same sign"]
    note = f"{num_seeds} seeds, {num_images} validation images, central crops; 95 % intervals in brackets."
    return tabulate(lines, headings, tablefmt="github", disable_numparse=True) + f"\n\n{note}\n"


def verdict(row: Row, claim: Claim | None) -> str:
    """Whether the difference has the claimed sign, and whether its interval leaves that open."""
    if claim is None:
        return ""
    low, high = row.difference_range
    agrees = "yes" if row.difference * claim.sign > 0 else "no"
    return f"{agrees}, within noise" if low <= 0 <= high else agrees


def plot(rows: list[Row]) -> Figure:
    """Differences from the whole network with their intervals."""
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    variants = rows[1:][::-1]
    middle = np.array([100 * row.difference for row in variants])
    ends = np.array([row.difference_range for row in variants]).reshape(-1, 2).T * 100
    axes.errorbar(middle, range(len(variants)), xerr=np.abs(ends - middle), fmt="o", capsize=3)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_yticks(range(len(variants)), [row.variant for row in variants])
    axes.set_xlabel(f"top-1 error less that of the whole network ({100 * rows[0].error:.1f} %), points")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    known = sorted(path.stem for path in (ROOT / "configs/variants").glob("*.yaml") if not path.stem.endswith("-small"))
    parser = argparse.ArgumentParser(
        prog="python -m tools.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument("--config", default="configs/small.yaml", metavar="FILE", help="the whole network's recipe")
    parser.add_argument("--out", default="ablation", metavar="DIR", help="folder for runs, table and plot (ablation)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each network (3)")
    parser.add_argument("--variants", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="ranks of each run (1)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="runs at the same time (1)")
    args, more = parser.parse_known_args(argv)
    if min(args.seeds, args.nproc, args.at_once) < 1:
        raise ValueError("--seeds, --nproc and --at-once: expected 1 or more")
    return args, more


if __name__ == "__main__":
    run(main)
