"""The prepared folder, which tools/prep_imagenet.py writes and training reads.

train.txt, val.txt    `relative/path label`, a line for each image, for other readers, too; label -1
                      where targets are not classes
test.txt              likewise, where there are test images
sizes.npz             by list: sizes, labels, targets, and spans of images inside archives or
                      lengths of files (ImageList)
classes.txt           classes (folders); line k is label k. Names of numbers where those are targets
names.txt             what people call them, in the same order
stats.npz             see PixelStats
rejected.txt          files that could not be used: path, tab, reason
converted.txt         files that were converted for the store: path, tab, what was odd
dataset.yaml          format, targets (see TARGETS), roots (relative ones are in this folder),
                      counts, fingerprint, origin; store: `resize` and `quality` of copies, or null
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from alexnet_dali.pipeline.arrays import read_arrays
from alexnet_dali.pipeline.image_list import NO_CLASS, ImageList, places
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.pipeline.system import addresses

FORMAT = 2
TARGETS = ("classes", "multilabel", "numbers", "none")
"""What is known of each image: its class, which of several classes it has, numbers, or nothing."""

SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""The lists of images, and what people call them. The last one need not be there."""

NAMES = ("utf-8", "surrogateescape")
"""How names of classes are written, whatever the locale. Those of files are the disk's bytes."""

_AGAIN = "prepare it again with alexnet prep"


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, opened and checked against its fingerprint."""

    folder: Path
    train: ImageList
    val: ImageList
    classes: list[str]
    names: list[str]  # what people call the classes: "tench" for n01440764
    stats: PixelStats
    fingerprint: str
    targets: str  # one of TARGETS
    test: ImageList | None = None
    store: dict[str, int] | None = None  # `resize` and `quality` of copies, as far as known

    def images(self, split: str) -> ImageList:
        """One of the lists that SPLITS names; DatasetError where the folder has no test images."""
        images = {"train": self.train, "val": self.val, "test": self.test}[split]
        if images is None:
            raise DatasetError(
                f"{self.folder} has no test images; prepare the images again with --test DIR, too "
                "(alexnet prep --train DIR --val DIR --test DIR --out ANOTHER)"
            )
        return images

    def about_images(self, split: str) -> str:
        """Of what folder a list is, and whether its images are originals or copies, in words."""
        form = "originals"
        if self.store is not None:
            side, quality = (self.store.get(name, "unknown") for name in ("resize", "quality"))
            form = f"copies of shorter side {side}, JPEG quality {quality}"
            if not self.store:
                form = "originals or copies, dataset.yaml does not say"
        return f"{SPLITS[split]} images of {self.folder}: {form}"

    @classmethod
    def open(cls, folder: str | Path, targets: Sequence[str] = ("classes",)) -> "Dataset":
        """Open `folder`, whose targets may be those given.

        DatasetError where it is missing, half-written, changed, of another format or with others.
        """
        folder = Path(folder)
        if address := addresses.what_to_do(folder):
            raise DatasetError(address)
        about = _read_about(folder)
        kind = about["targets"]
        if kind not in targets:
            raise DatasetError(
                f"{folder} was prepared with --targets {kind}, and this needs "
                f"{' or '.join(targets)}; read it with alexnet_dali.pipeline.DataLoader"
            )
        splits = [name for name in SPLITS if f"{name}_root" in about]
        _check_files(folder, splits, about["fingerprint"])
        classes, names = (_read_lines(folder / f"{name}.txt") for name in ("classes", "names"))
        if len(names) != len(classes):
            raise DatasetError(
                f"{folder / 'names.txt'}: expected a name for each of the {len(classes)} classes, "
                f"found {len(names)}"
            )
        arrays = read_arrays(folder / "sizes.npz")
        lists = {name: _read_list(folder, name, about, arrays, len(classes)) for name in splits}
        return cls(
            folder,
            classes=classes,
            names=names,
            stats=PixelStats.load(folder / "stats.npz"),
            fingerprint=about["fingerprint"],
            targets=kind,
            store=_store(folder, about, lists["val"]),
            train=lists["train"],
            val=lists["val"],
            test=lists.get("test"),
        )


def fingerprint(folder: Path, splits: Iterable[str] = ("train", "val")) -> str:
    """SHA-256 over lists, sizes, classes and statistics.

    Equal for the same images prepared in the same way.
    """
    digest = hashlib.sha256()
    for name in _fingerprinted(splits):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _fingerprinted(splits: Iterable[str]) -> list[str]:
    """Files, in the order in which they are read."""
    return [*(f"{name}.txt" for name in splits), "sizes.npz", "classes.txt", "stats.npz"]


def _read_lines(path: Path) -> list[str]:
    return path.read_bytes().decode(*NAMES).split("\n")[:-1]


def _on_disk(root: str) -> str:
    """A root as dataset.yaml has it, as a path of its bytes, whatever the locale."""
    return os.fsdecode(root.encode(*NAMES))


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.yaml"
    if not path.is_file():
        raise DatasetError(
            f"{folder}: no dataset.yaml, so it is not a prepared folder (or only half of one); "
            f"make one with: alexnet prep --train DIR --val DIR --out {folder}"
        )
    try:
        about = yaml.safe_load(path.read_text())
    except Exception:  # yaml raises many kinds for a text that is damaged
        about = None
    words = ("fingerprint", "train_root", "val_root")
    if not isinstance(about, dict) or not (
        all(isinstance(about.get(key), str) for key in words)
        and isinstance(about.get("test_root", ""), str)
    ):
        raise DatasetError(f"{path}: expected format {FORMAT} with {', '.join(words)}; {_AGAIN}")
    number, targets = about.get("format", 1), about.get("targets")
    if type(number) is int and number == 1:
        raise DatasetError(f"{path}: made by version 0.2; {_AGAIN}")
    if type(number) is int and number in range(FORMAT, 100) and isinstance(targets, str):
        if number == FORMAT and targets in TARGETS:
            return about
        raise DatasetError(
            f"{path}: made by a later version (format {number}, targets: {targets}); expected "
            f"format {FORMAT}, targets: {', '.join(TARGETS)}; use that version, or {_AGAIN}"
        )
    raise DatasetError(f"{path}: expected format: {FORMAT} and targets: {TARGETS[0]}; {_AGAIN}")


def _check_files(folder: Path, splits: Iterable[str], expected: str) -> None:
    """DatasetError where files are missing, or have another fingerprint than the expected one."""
    files = (*_fingerprinted(splits), "names.txt")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{folder}: {', '.join(missing)} missing; {_AGAIN}")
    if fingerprint(folder, splits) != expected:
        raise DatasetError(
            f"{folder}: its files are not those that dataset.yaml was written for (changed or "
            f"half-copied); {_AGAIN}"
        )


def _store(folder: Path, about: dict[str, Any], images: ImageList) -> dict[str, int] | None:
    """See Dataset.store; folders made before `store` was written show it in part."""
    if "store" not in about:
        if "subset_of" in about:
            return {}
        inside = not os.path.isabs(_on_disk(about["val_root"]))
        return {"resize": int(images.sizes.min())} if inside else None
    store = about["store"]
    if store is None or (isinstance(store, dict) and all(type(n) is int for n in store.values())):
        return store
    raise DatasetError(
        f"{folder / 'dataset.yaml'}: expected store: null, or resize and quality; {_AGAIN}"
    )


def _read_list(
    folder: Path, name: str, about: dict[str, Any], arrays: Mapping[str, NDArray], num_classes: int
) -> ImageList:
    """The list `name` of SPLITS, without a Python object for each line."""
    path, sizes = folder / f"{name}.txt", arrays.get(name, np.empty(0))
    text = np.fromfile(path, np.uint8)
    starts, ends = places(text)
    if not 0 < len(starts) == sizes.size // 2 or not (starts < ends).all():
        raise DatasetError(
            f"{path}: expected {sizes.size // 2} lines 'relative/path label', found "
            f"{(starts < ends).sum()}; {_AGAIN}"
        )
    labels = arrays.get(f"{name}_labels", np.empty(0))
    spans, lengths = arrays.get(f"{name}_spans"), arrays.get(f"{name}_lengths")
    targets = arrays.get(f"{name}_targets")
    root = str(folder / _on_disk(about[f"{name}_root"]))
    line = f"the line {name}_root of {folder / 'dataset.yaml'}"
    images = ImageList(root, text, starts, ends, labels, sizes, spans, lengths, targets, line)
    wrong = _what_is_wrong(images, num_classes, about["targets"])
    if wrong:
        raise DatasetError(f"{folder / 'sizes.npz'}: expected {wrong} in {name}; {_AGAIN}")
    return images


def _what_is_wrong(images: ImageList, num_classes: int, kind: str) -> str:
    """What the arrays should be and are not, in words; empty where all is well."""
    count, labels, sizes, spans = len(images.starts), images.labels, images.sizes, images.spans
    lowest, highest = (0, num_classes - 1) if kind == "classes" else (NO_CLASS, NO_CLASS)
    if not _is_table(labels, (count,)) or labels.min() < lowest or labels.max() > highest:
        return f"{count} labels from {lowest} to {highest}"
    wanted = {"multilabel": "b", "numbers": "f"}.get(kind)
    if wanted and not (
        images.targets is not None
        and images.targets.shape == (count, num_classes)
        and images.targets.dtype.kind == wanted
    ):
        return f"{count} rows of {num_classes} targets"
    if not _is_table(sizes, (count, 2)) or sizes.min() < 1:
        return f"{count} heights and widths above 0"
    lengths = images.ends - images.starts
    if spans is not None and (
        not _is_table(spans, (count, 3)) or spans.min() < 0 or (spans[:, 0] > lengths).any()
    ):
        return f"{count} places in archives"
    if images.lengths is not None and not _is_table(images.lengths, (count,)):
        return f"{count} lengths of files"
    return ""


def _is_table(array: NDArray, shape: tuple[int, ...]) -> bool:
    return array.shape == shape and array.dtype.kind in "iu"
