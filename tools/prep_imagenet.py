"""Prepare images for training: decode every file once, list what is usable, and take the statistics.

    python -m tools.prep_imagenet --train ILSVRC/train --val ILSVRC/val --out prepared/imagenet

Class folders are numbered in sorted order. A flat validation folder takes its labels from --val-labels: Tiny
ImageNet's val_annotations.txt, two columns of text or CSV (name, class or number), or Kaggle's LOC_val_solution.csv.
The images stay where they are; --out gets the lists.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # as a script, Python looks in tools/ and not in the project
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nvidia.dali
from tqdm import tqdm

from pipeline.dataset import DatasetError, PreparedFiles
from pipeline.examine import examine
from pipeline.files import atomic_folder
from pipeline.sources import Source, class_names, from_class_folders, from_label_file, hold_out
from pipeline.stats import PixelSums
from tools.cli import run


def main(argv: list[str]) -> None:
    """Prepare a folder as the arguments say; ValueError or OSError where they can't be followed."""
    args = _arguments(argv)
    out = Path(args.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} exists and is not empty; nothing was changed: remove it, or choose another --out")
    classes = class_names(Path(args.train))
    train, val = _sources(args, classes)
    with atomic_folder(out) as folder:
        files = _prepare(train, val, classes, argv)
        files.write(folder)
    print(
        f"{out}: {len(files.train[0])} training and {len(files.val[0])} validation images of {len(classes)} classes; "
        f"{len(files.rejected)} files rejected" + (f", see {out}/rejected.txt" if files.rejected else "")
    )


def _prepare(train: Source, val: Source, classes: list[str], argv: list[str]) -> PreparedFiles:
    sums = PixelSums()
    train_files, train_rejected = _examine(train, classes, "train", sums)
    val_files, val_rejected = _examine(val, classes, "val", None)
    rejected = train_rejected + val_rejected
    about = {
        "train_root": str(train.root),
        "val_root": str(val.root),
        "train_images": len(train_files[0]),
        "val_images": len(val_files[0]),
        "classes": len(classes),
        "rejected": len(rejected),
        "made_by": "tools.prep_imagenet " + shlex.join(argv),
        "made_at": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "decoder": f"nvidia-dali {nvidia.dali.__version__}",
    }
    return PreparedFiles(train_files, val_files, classes, sums.stats(), rejected, about)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.prep_imagenet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, metavar="DIR", help="a folder of images for each class")
    held = parser.add_mutually_exclusive_group(required=True)
    held.add_argument("--val", metavar="DIR", help="validation images: class folders, or flat with --val-labels")
    held.add_argument("--hold-out", type=float, metavar="SHARE", help="or this share of each class of --train")
    parser.add_argument("--val-labels", metavar="FILE", help="labels of a flat --val folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared folder to make")
    args = parser.parse_args(argv)
    if args.val_labels and not args.val:
        raise DatasetError("--val-labels goes with --val; images that are held out keep their class folder's label")
    return args


def _sources(args: argparse.Namespace, classes: list[str]) -> tuple[Source, Source]:
    train = from_class_folders(Path(args.train).absolute(), classes)
    if args.hold_out is not None:
        if not 0 < args.hold_out < 1:
            raise DatasetError(f"--hold-out is {args.hold_out:g}; expected a share between 0 and 1, such as 0.1")
        return hold_out(train, args.hold_out, seed=0)
    val_root = Path(args.val).absolute()
    if args.val_labels:
        return train, from_label_file(val_root, Path(args.val_labels), classes)
    return train, from_class_folders(val_root, classes)


Files = tuple[list[str], list[int], list[tuple[int, int]]]


def _examine(
    source: Source, classes: list[str], title: str, sums: PixelSums | None
) -> tuple[Files, list[tuple[str, str]]]:
    """(names, labels, sizes) of what can be used, and (path, reason) of what can't; `sums` takes the statistics."""
    files: Files = ([], [], [])
    rejected = []
    names = iter(zip(source.names, source.labels, strict=True))
    with tqdm(total=len(source.names), desc=title, unit=" images", disable=None) as progress:
        for findings in examine(str(source.root), source.names, sums is not None):
            for size, reason, (name, label) in zip(findings.sizes, findings.reasons, names):
                if size is None:
                    rejected.append((f"{source.root}/{name}", reason))
                    continue
                files[0].append(name)
                files[1].append(label)
                files[2].append(size)
            if sums is not None and findings.sums is not None:
                sums.merge(findings.sums)
            progress.update(len(findings.sizes))
    _check_classes(source, classes, files, rejected, title)
    return files, rejected


def _check_classes(
    source: Source, classes: list[str], files: Files, rejected: list[tuple[str, str]], title: str
) -> None:
    """Every training class needs an image that can be used; validation needs one at all."""
    lost = sorted(set(range(len(classes))) - set(files[1])) if title == "train" else []
    if not lost and files[0]:
        return
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in rejected[:5])
    what = f"no usable image in class folder {classes[lost[0]]}" if lost else "no usable image at all"
    raise DatasetError(f"{source.root}: {what}; add images, or remove the folder{reasons}")


if __name__ == "__main__":
    run(main)
