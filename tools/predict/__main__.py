"""Name what pictures show: the five likeliest classes of each, by a trained network.

    alexnet predict runs/alexnet picture.jpg
    alexnet predict runs/alexnet holiday/ pets.zip --views 10 --csv > classes.csv
    alexnet predict runs/alexnet holiday/ --figure classes.png

Give files, folders or archives: whatever preparation would take. A file that can't be used is named
with the reason, and skipped. Where a picture lies in a folder that is named as a class, that
class is taken for right.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from alexnet_dali.pipeline.feeder import IGNORE_INDEX
from alexnet_dali.pipeline.messages import one_line
from alexnet_dali.pipeline.prepare.pictures import Pictures, Skipped, find, open_pictures
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.pipeline.system.progress import progress
from alexnet_dali.tools.cli import command_line, for_programs, run
from alexnet_dali.tools.predict.answers import Answer, report, table, write_csv
from alexnet_dali.train.evaluation import probabilities
from alexnet_dali.train.networks import Trained, batches_of, open_network
from alexnet_dali.train.parallel.ranks import Ranks, join

if TYPE_CHECKING:
    from alexnet_dali.tools.paper.drawing import Figure

SUFFIXES = (".png", ".pdf", ".svg")
MOST_DRAWN = 60
"""Pictures in one figure: more would be no figure, but a scroll."""

_PROGRESS_FROM = 200
"""Files from which on progress is shown."""


def main(argv: list[str]) -> None:
    """Classify as the arguments say; ValueError where nothing could be classified."""
    args = _arguments(argv)
    if args.figure:  # without Matplotlib, this ends before anything is classified
        from alexnet_dali.tools.predict.drawing import draw
    with join(args.device, num_columns=1) as ranks:
        if ranks.world_size > 1:
            raise ValueError(
                f"found {ranks.world_size} ranks; pictures are classified by one process, without "
                "torchrun"
            )
        network = open_network(Path(args.run), ranks.device)
        how = _How(args.views, args.batch_size, bool(args.figure), args.figure)
        answers, odd = _classify_all(network, ranks, args.pictures, how)
    if not answers:
        raise ValueError("no picture could be classified")
    if args.figure:
        if len(answers) > MOST_DRAWN:
            shown = f"{args.figure} shows the first {MOST_DRAWN} of {len(answers)} pictures"
            print(shown, file=sys.stderr)
        _save(draw(network, answers[:MOST_DRAWN]), Path(args.figure))
    if args.json:
        about = {"checkpoint": str(network.path), "step": network.step, "views": args.views}
        skipped = [{"path": path, "reason": reason} for path, reason in odd]
        pictures = report(network, answers)
        result = {**about, "pictures": pictures, "skipped": skipped}
        print(json.dumps(result), file=for_programs())
    elif args.csv:
        write_csv(network, answers, for_programs())
    else:
        print(table(network, answers))


def figure(
    run: str | Path,
    pictures: str | Path | Sequence[str | Path],
    views: int = 1,
    device: str = "auto",
) -> "Figure":
    """Files, folders or archives of pictures beside their likeliest classes.

    ValueError where none can be used.
    """
    from alexnet_dali.tools.predict.drawing import draw

    if isinstance(pictures, str | Path):
        pictures = [pictures]
    names = list(map(str, pictures))
    with join(device, num_columns=1) as ranks:
        network = open_network(Path(run), ranks.device)
        answers, _ = _classify_all(network, ranks, names, _How(views))
    if not answers:
        raise ValueError("no picture could be classified")
    return draw(network, answers[:MOST_DRAWN])


class _How(NamedTuple):
    """How pictures are classified; with squares, to be drawn into the file `figure`."""

    views: int
    batch_size: int = 128
    with_squares: bool = True
    figure: str | None = None


def _classify_all(
    network: Trained, ranks: Ranks, pictures: Sequence[str], how: _How
) -> tuple[list[Answer], list[Skipped]]:
    """Answers in the order in which pictures were named, and what was skipped."""
    found, odd, remarks = find(pictures, network.classes)
    _check_figure(how.figure, found)
    for remark in remarks:
        print(remark, file=sys.stderr)
    _complain(odd)
    answers: list[Answer] = []
    total = sum(map(len, found))
    shown = total >= _PROGRESS_FROM
    with progress(total, "pictures", "files", shown=shown) as advance, Workers() as pool:
        for part in (part for pictures in found for part in pictures.parts()):
            drawn = how.with_squares and len(answers) < MOST_DRAWN
            some, more = _classify(network, part, ranks, pool, how._replace(with_squares=drawn))
            _complain(more)
            advance(len(part))
            answers += some
            odd += more
    return answers, odd


def _classify(
    network: Trained, part: Pictures, ranks: Ranks, pool: Workers, how: _How
) -> tuple[list[Answer], list[Skipped]]:
    answers: dict[int, Answer] = {}
    with TemporaryDirectory(prefix="predict-") as folder:
        lists, odd = open_pictures(part.source, network.data.resize, pool, Path(folder))
        for batch in batches_of(network, lists, ranks, how.batch_size):
            scores = probabilities(network.model, batch.images, network.mean, how.views)
            squares = batch.images.permute(0, 2, 3, 1).byte().cpu().numpy()
            for row, place in enumerate(batch.labels.tolist()):
                if place != IGNORE_INDEX:
                    square = squares[row] if how.with_squares else None
                    answers[place] = Answer.of(part.known[place], scores[row].cpu().numpy(), square)
    skipped = [(part.known[place].path, reason) for place, reason in odd.items()]
    return [answers[place] for place in sorted(answers)], skipped


def _check_figure(figure: str | None, found: list[Pictures]) -> None:
    """ValueError where the figure would overwrite one of the pictures."""
    if not figure or not os.path.exists(figure):
        return
    for picture in (picture for pictures in found for picture in pictures.known):
        if os.path.exists(picture.path) and os.path.samefile(picture.path, figure):
            raise ValueError(
                f"--figure is {figure}, which is one of the pictures; choose another file"
            )


def _complain(odd: list[Skipped]) -> None:
    for path, reason in odd:
        tqdm.write(f"skipped {one_line(path)}: {one_line(reason)}", file=sys.stderr)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet predict", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint")
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="a file, a folder or an archive of them"
    )
    parser.add_argument(
        "--views", type=int, choices=[1, 10], default=1, help="the centre, or ten averaged (1)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print lines of comma-separated values")
    parser.add_argument(
        "--figure", metavar="FILE", help="draw pictures and bars; ends in .png, .pdf or .svg"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--batch-size", type=int, default=128, metavar="N", help="pictures at a time (128)"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}; expected 1 or more")
    if args.figure and Path(args.figure).suffix not in SUFFIXES:
        raise ValueError(
            f"--figure is {args.figure}; expected a name that ends in {', '.join(SUFFIXES)}"
        )
    return args


if __name__ == "__main__":
    run(main)
