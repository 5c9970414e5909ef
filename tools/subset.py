"""A prepared folder with some of another's classes or images; nothing is decoded again.

    alexnet subset prepared/imagenet --classes imagenet100.txt --out prepared/imagenet100
    alexnet subset prepared/imagenet --per-class 100 --out prepared/imagenet-small

--classes is a file with a class folder (n01440764) or a name (tench) on each line, whose order
becomes that of the labels. Images stay where they are. Mean image and lighting's colours stay those
of all training images of the other folder.
"""

import argparse
import hashlib
import shlex
import time
from pathlib import Path

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare import other_readers
from alexnet_dali.pipeline.prepare.subset import read_classes, subset
from alexnet_dali.pipeline.system.files import resumable_folder
from alexnet_dali.tools.cli import command_line, run


def main(argv: list[str]) -> None:
    """Write the folder; ValueError or OSError where that can't be done."""
    args = _arguments(argv)
    out = Path(args.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} exists and is not empty; remove it, or choose another --out")
    whole = Dataset.open(Path(args.prepared).absolute())
    chosen = list(range(len(whole.classes)))
    if args.classes:
        chosen = read_classes(Path(args.classes), whole)
    files = subset(whole, chosen, args.per_class, args.seed)
    if not len(files.val):
        raise DatasetError(f"{args.prepared} has no validation image of these classes")
    about = {
        **files.counts(),
        "classes": len(files.classes),
        "subset_of": {"folder": str(whole.folder), "fingerprint": whole.fingerprint},
        "store": whole.store,
        "statistics": f"of the {len(whole.train)} training images of {whole.folder}",
        "made_by": "alexnet subset " + shlex.join(argv),
        "made_at": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    identity = hashlib.sha256(repr((argv, whole.fingerprint)).encode()).hexdigest()
    with resumable_folder(out, identity) as (folder, _):
        other_readers.write(folder, files)
        files.write(folder, about)
    print(
        f"{out}: {files.counted()} of "
        f"{len(files.classes)} classes; images stay in {files.train.root}, and statistics are "
        f"those of all training images of {whole.folder}"
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet subset", __doc__)
    parser.add_argument("prepared", metavar="PREPARED", help="the folder to choose from")
    parser.add_argument("--classes", metavar="FILE", help="a class folder or a name on each line")
    parser.add_argument(
        "--per-class", type=int, metavar="N", help="so many training images of each class"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which of them (0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to make")
    args = parser.parse_args(argv)
    if args.classes is None and args.per_class is None:
        raise DatasetError("expected --classes FILE, --per-class N, or both")
    if args.per_class is not None and args.per_class < 1:
        raise DatasetError(f"--per-class is {args.per_class}; expected 1 or more")
    if not 0 <= args.seed < 1 << 63:
        raise DatasetError(f"--seed is {args.seed}; expected a number from 0 to 2^63 - 1")
    return args


if __name__ == "__main__":
    run(main)
