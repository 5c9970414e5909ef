"""Prepare images for training: decode every file once, list the usable ones, take statistics.

    python -m tools.prep_imagenet --train ILSVRC/train --val ILSVRC/val --out prepared/imagenet
    python -m tools.prep_imagenet --train ILSVRC2012_img_train.tar --val ILSVRC2012_img_val.tar \\
        --val-labels ILSVRC2012_devkit_t12.tar.gz --resize 256 --shards --out prepared/imagenet256

Images stay where they are, and --out gets the lists. With --resize it gets resized copies, and
training needs no other files.

Class folders are numbered in sorted order. A flat validation folder takes its labels from
--val-labels. That may be Tiny ImageNet's val_annotations.txt, two columns of text or CSV (name,
then class or number), Kaggle's LOC_val_solution.csv, or ImageNet's development kit.

A folder may also be a tar archive of it. --train takes an archive that holds an archive for each
class, as ImageNet's does.

If interrupted, rerun the same command to resume.
"""

import argparse
import shlex
import time
from pathlib import Path

import nvidia.dali

from pipeline.dataset import DatasetError
from pipeline.files import resumable_folder
from pipeline.prepare.preparation import Preparation
from pipeline.prepare.sources import (
    Source,
    class_folders,
    class_names,
    flat_folder,
    hold_out,
    label_by_file,
    label_by_folder,
)
from pipeline.prepare.store import StoreFormat
from tools.cli import run

_HALF = 0.5


def main(argv: list[str]) -> None:
    """Prepare a folder as the arguments say; ValueError or OSError where they can't be followed."""
    args = _arguments(argv)
    out = Path(args.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(
            f"{out} exists and is not empty; nothing was changed: remove it, or choose another "
            "--out"
        )
    train, val, classes = _sources(args)
    store = StoreFormat(args.resize, args.quality, args.shards) if args.resize else None
    preparation = Preparation(train, val, classes, store)
    begun = time.monotonic()
    with resumable_folder(out, preparation.identity()) as (folder, notes):
        files = preparation.run(folder, notes)
        about = {
            "train_images": len(files.train),
            "val_images": len(files.val),
            "classes": len(classes),
            "rejected": len(files.rejected),
            "converted": len(files.converted),
            "made_by": "tools.prep_imagenet " + shlex.join(argv),
            "made_at": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "decoder": f"nvidia-dali {nvidia.dali.__version__}",
        }
        files.write(folder, about)
    print(
        f"{out}: {len(files.train)} training and {len(files.val)} validation images "
        f"of {len(classes)} classes in {time.monotonic() - begun:.0f} s; "
        f"{_told(files.rejected, 'rejected', out)}"
        + (f"; {_told(files.converted, 'converted', out)}" if store else "")
    )


def _told(files: list[tuple[str, str]], what: str, out: Path) -> str:
    return f"{len(files)} files {what}" + (f", see {out}/{what}.txt" if files else "")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.prep_imagenet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--train", required=True, metavar="DIR", help="a folder of images for each class, or a .tar"
    )
    held = parser.add_mutually_exclusive_group(required=True)
    held.add_argument(
        "--val", metavar="DIR", help="validation images: class folders, or flat with --val-labels"
    )
    held.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="or this share of each class of --train"
    )
    held.add_argument(
        "--split",
        choices=["half"],
        help="or half of each class (the paper's protocol for Fall 2009)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which images are held out (0)"
    )
    parser.add_argument("--val-labels", metavar="FILE", help="labels of a flat --val folder")
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
    if args.val_labels and not args.val:
        raise DatasetError(
            "--val-labels goes with --val; images that are held out keep their class folder's label"
        )
    if args.shards and not args.resize:
        raise DatasetError(
            "--shards goes with --resize; archives of originals are read in place without either"
        )
    if args.resize is not None and not 16 <= args.resize <= 4096:
        raise DatasetError(f"--resize is {args.resize}; expected 16 to 4096 pixels, such as 256")
    if not 1 <= args.quality <= 100:
        raise DatasetError(f"--quality is {args.quality}; expected 1 to 100, such as 90")


def _sources(args: argparse.Namespace) -> tuple[Source, Source, list[str]]:
    """Training files, validation files, and the classes."""
    listing = class_folders(Path(args.train).absolute())
    classes = class_names(listing)
    train = label_by_folder(listing, classes)
    if not args.val:
        share = _HALF if args.split else args.hold_out
        if not 0 < share < 1:
            raise DatasetError(
                f"--hold-out is {share:g}; expected a share between 0 and 1, such as 0.1"
            )
        return *hold_out(train, share, args.seed), classes
    val_root = Path(args.val).absolute()
    if args.val_labels:
        return train, label_by_file(flat_folder(val_root), Path(args.val_labels), classes), classes
    return train, label_by_folder(class_folders(val_root), classes), classes


if __name__ == "__main__":
    run(main)
