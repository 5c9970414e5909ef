"""Prepare images for training: decode every file once, list the usable ones, take statistics.

    alexnet prep --train ILSVRC/train --val ILSVRC/val --out prepared/imagenet
    alexnet prep --train ILSVRC2012_img_train.tar --val ILSVRC2012_img_val.tar \\
        --val-labels ILSVRC2012_devkit_t12.tar.gz --resize 256 --shards --out prepared/imagenet256

Images stay where they are, and --out gets the lists. With --resize it gets resized copies, and
training needs no other files.

--test adds images that training never reads, for `alexnet evaluate RUN --split test`.

--train, --val and --test take a folder of class folders, a tar or zip archive of it (or a folder in
it: images.zip/train), a folder of an archive for each class, WebDataset shards, or parquet files as
the Hugging Face hub serves them ('data/train-*.parquet'). Images that an archive compresses, and
those of parquet files, need --resize.

Class folders are numbered in sorted order. A flat folder takes its labels from --train-labels,
--val-labels or --test-labels. That may be Tiny ImageNet's val_annotations.txt, two columns of text
or CSV (name and class or number), Kaggle's LOC_val_solution.csv, or ImageNet's development kit.

If interrupted, rerun the same command to resume.
"""

import argparse
import runpy
import shlex
import time
from pathlib import Path

if not __package__:  # run by its path
    runpy.run_path(str(Path(__file__).with_name("checkout.py")))

import nvidia.dali

from alexnet_dali.pipeline.dataset import TARGETS
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare import other_readers
from alexnet_dali.pipeline.prepare.labels.class_names import find_names, read_names
from alexnet_dali.pipeline.prepare.preparation import Preparation
from alexnet_dali.pipeline.prepare.sources import Source, hold_out, training_files, validation_files
from alexnet_dali.pipeline.prepare.store import StoreFormat
from alexnet_dali.pipeline.prepare.targeted import classes_of, files_with_targets
from alexnet_dali.pipeline.system import addresses
from alexnet_dali.pipeline.system.files import resumable_folder
from alexnet_dali.tools.cli import command_line, run


def main(argv: list[str]) -> None:
    """Prepare a folder as the arguments say; ValueError or OSError where they can't be followed."""
    args = _arguments(argv)
    out = Path(args.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(
            f"{out} exists and is not empty; nothing was changed: remove it, or choose another "
            "--out"
        )
    preparation = _preparation(args)
    store = preparation.store
    begun = time.monotonic()
    with resumable_folder(out, preparation.identity()) as (folder, notes):
        files = preparation.run(folder, notes)
        about = {
            **files.counts(),
            "classes": len(preparation.classes),
            "rejected": len(files.rejected),
            "converted": len(files.converted),
            "store": store and {"resize": store.resize, "quality": store.quality},
            "made_by": "alexnet prep " + shlex.join(argv),
            "made_at": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "decoder": f"nvidia-dali {nvidia.dali.__version__}",
        }
        other_readers.write(folder, files)
        files.write(folder, about)
    of = f"of {len(files.classes)} classes" if args.targets == "classes" else f"({args.targets})"
    print(
        f"{out}: {files.counted()} {of} "
        f"in {time.monotonic() - begun:.0f} s; "
        f"{_told(files.rejected, 'rejected', out)}"
        + (f"; {_told(files.converted, 'converted', out)}" if store else "")
    )


def _told(files: list[tuple[str, str]], what: str, out: Path) -> str:
    return f"{len(files)} files {what}" + (f", see {out}/{what}.txt" if files else "")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet prep", __doc__)
    parser.add_argument(
        "--train", required=True, metavar="DIR", help="a folder for each class, or an archive"
    )
    held = parser.add_mutually_exclusive_group(required=True)
    held.add_argument(
        "--val", metavar="DIR", help="validation images: class folders, or flat with --val-labels"
    )
    held.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="or this share of each class of --train (the paper, for Fall 2009: 0.5)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which images are held out (0)"
    )
    parser.add_argument("--train-labels", metavar="FILE", help="labels of a flat --train folder")
    parser.add_argument("--val-labels", metavar="FILE", help="labels of a flat --val folder")
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="test images, as for --val; only evaluate --split test reads them",
    )
    parser.add_argument("--test-labels", metavar="FILE", help="labels of a flat --test folder")
    parser.add_argument(
        "--targets",
        choices=TARGETS,
        default=TARGETS[0],
        help="what label files say of each image: its class, several classes, numbers; or nothing",
    )
    parser.add_argument(
        "--names",
        metavar="FILE",
        help="what people call the classes: lines of class and name, such as words.txt",
    )
    parser.add_argument(
        "--resize", type=int, metavar="PIXELS", help="store the images with this shorter side (256)"
    )
    parser.add_argument(
        "--quality", type=int, default=90, metavar="N", help="of the JPEG files stored (90)"
    )
    parser.add_argument(
        "--shards",
        action="store_true",
        help="store them in WebDataset tar shards, not file by file",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to make")
    args = parser.parse_args(argv)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    """DatasetError where the arguments do not go together."""
    options = ("train", "val", "test", "train_labels", "val_labels", "test_labels", "names", "out")
    for option in options:
        if getattr(args, option) == "":
            raise DatasetError(f"--{option.replace('_', '-')} is empty; expected a path")
    if addresses.what_to_do(Path(args.out)):
        raise DatasetError(
            f"--out {args.out} is an address; expected a folder, which can be copied afterwards"
        )
    if not 0 <= args.seed < 1 << 63:
        raise DatasetError(f"--seed is {args.seed}; expected a number from 0 to 2^63 - 1")
    if args.val_labels and not args.val:
        raise DatasetError(
            "--val-labels goes with --val; images that are held out keep their class folder's label"
        )
    if args.test_labels and not args.test:
        raise DatasetError("--test-labels goes with --test")
    if args.targets == "none" and (args.train_labels or args.val_labels or args.test_labels):
        raise DatasetError("--targets none reads no labels; leave out --train-labels and the like")
    if args.targets != "classes" and args.names:
        raise DatasetError("--names are of classes; leave them out, or --targets")
    if args.shards and not args.resize:
        raise DatasetError(
            "--shards goes with --resize; archives of originals are read in place without either"
        )
    if args.resize is not None and not 16 <= args.resize <= 4096:
        raise DatasetError(f"--resize is {args.resize}; expected 16 to 4096 pixels, such as 256")
    if not 1 <= args.quality <= 100:
        raise DatasetError(f"--quality is {args.quality}; expected 1 to 100, such as 90")


def _preparation(args: argparse.Namespace) -> Preparation:
    """What to prepare; prints what a user should know of how files were found."""
    if args.targets != "classes":
        return _with_targets(args)
    path, label_file = Path(args.train).absolute(), _path(args.val_labels)
    if args.train_labels:
        names, classes = None, classes_of(path, Path(args.train_labels).absolute())
        source, remarks = validation_files(path, Path(args.train_labels).absolute(), classes)
    else:
        source, classes, names, remarks = training_files(path)
    if args.val:
        train = source
        val, more = validation_files(Path(args.val).absolute(), label_file, classes, names)
        remarks += more
    else:
        train, val = _held_out(args, source)
    test = None
    if args.test:
        labels = _path(args.test_labels)
        test, more = validation_files(Path(args.test).absolute(), labels, classes, names)
        remarks += more
    if args.names:
        names = read_names(Path(args.names).absolute(), classes)
    elif names is None:
        names = find_names(path, label_file, classes)
    for remark in remarks:
        print(remark)
    return Preparation(train, val, classes, names or classes, _store(args), test=test)


def _with_targets(args: argparse.Namespace) -> Preparation:
    """Targets that are not classes."""
    kind = args.targets
    train, names, remarks = files_with_targets(
        Path(args.train).absolute(), _path(args.train_labels), kind
    )
    if args.val:
        path, label_file = Path(args.val).absolute(), _path(args.val_labels)
        val, _, more = files_with_targets(path, label_file, kind, names)
        remarks += more
    else:
        train, val = _held_out(args, train)
    test = None
    if args.test:
        path, label_file = Path(args.test).absolute(), _path(args.test_labels)
        test, _, more = files_with_targets(path, label_file, kind, names)
        remarks += more
    for remark in remarks:
        print(remark)
    return Preparation(train, val, names, names, _store(args), kind, test)


def _store(args: argparse.Namespace) -> StoreFormat | None:
    return StoreFormat(args.resize, args.quality, args.shards) if args.resize else None


def _held_out(args: argparse.Namespace, source: Source) -> tuple[Source, Source]:
    share = args.hold_out
    if not 0 < share < 1:
        raise DatasetError(
            f"--hold-out is {share:g}; expected a share between 0 and 1, such as 0.1"
        )
    return hold_out(source, share, args.seed)


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


if __name__ == "__main__":
    run(main)
