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
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from alexnet_dali.pipeline.arrays import read_arrays
from alexnet_dali.pipeline.reading.archives import read
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.pipeline.system import addresses

FORMAT = 2
TARGETS = ("classes", "multilabel", "numbers", "none")
"""What is known of each image: its class, which of several classes it has, numbers, or nothing."""
NO_CLASS = -1
"""The label of images whose targets are not classes; loss functions refuse it."""

SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""The lists of images, and what people call them. The last one need not be there."""

_LOOKED_AT = 8
"""Images of a list: where none of them is there, all have moved."""

_NAMES = ("utf-8", "surrogateescape")
"""How names of classes are written, whatever the locale. Those of files are the disk's bytes."""

_AGAIN = "prepare it again with alexnet prep"
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class DatasetError(ValueError):
    """A prepared folder, a source folder or an image that can't be used, and what to do.

    Names of files are in it as they are; its text is fit for a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


@dataclass(frozen=True)
class ImageList:
    """A file list held as one blob of bytes: a million paths cost what their characters cost.

    `text` is the list file; path i is `text[starts[i]:ends[i]]`, relative to `root`. `labels` [n]
    int64; `sizes` [n, 2] int32 height and width. Images inside archives have `spans` [n, 3] int64:
    how many bytes of the path name the archive, and offset and size of the image in it. Files may
    have `lengths` [n] int64 in bytes. Targets that are not classes are `targets`, [n, classes] bool
    or [n, numbers] float32; `labels` are then NO_CLASS. `root_is_in` says where a user can change
    the root.
    """

    root: str
    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int32]
    spans: NDArray[np.int64] | None = None
    lengths: NDArray[np.int64] | None = None
    targets: NDArray[np.bool_ | np.float32] | None = None
    root_is_in: str = ""

    @classmethod
    def of(
        cls,
        root: str,
        names: Iterable[str],
        labels: Sequence[int] | NDArray[np.int64],
        sizes: Sequence[tuple[int, int]] | NDArray[np.int32],
        spans: Sequence[tuple[int, int, int]] | NDArray[np.int64] | None = None,
        lengths: Sequence[int] | NDArray[np.int64] | None = None,
        targets: NDArray[np.bool_ | np.float32] | None = None,
    ) -> "ImageList":
        """A list from an entry for each image; `spans` and `lengths` are for all or for none."""
        all_labels, lines = np.asarray(labels, np.int64), bytearray()
        for name, label in zip(names, all_labels, strict=True):
            lines += os.fsencode(f"{name} {label}\n")
        text = np.frombuffer(lines, np.uint8)
        all_spans = None if spans is None else np.asarray(spans, np.int64)
        all_lengths = None if lengths is None else np.asarray(lengths, np.int64)
        all_sizes = np.asarray(sizes, np.int32)
        return cls(
            root, text, *_places(text), all_labels, all_sizes, all_spans, all_lengths, targets
        )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The file of image `index`, relative to the root.

        Inside an archive, the archive's name comes first.
        """
        return os.fsdecode(self.text[self.starts[index] : self.ends[index]].tobytes())

    def path(self, index: int) -> str:
        """`name` with the root before it."""
        return os.path.join(self.root, self.name(index))

    def archive(self, index: int) -> tuple[str, int, int]:
        """The archive that holds image `index`, and the image's offset and size in it."""
        assert self.spans is not None
        length, offset, size = self.spans[index].tolist()
        name = self.text[self.starts[index] : self.starts[index] + length].tobytes()
        return os.path.join(self.root, os.fsdecode(name)), offset, size

    def length(self, index: int) -> int | None:
        """Bytes of the encoded image `index`, where that is known."""
        if self.spans is not None:
            return int(self.spans[index, 2])
        return None if self.lengths is None else int(self.lengths[index])

    def name_table(
        self, indices: NDArray[np.int64], lengths: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """[n, width] paths of some images with the root before them, padded with zeros.

        `lengths` [n] cuts their names, such as to those of archives.
        """
        root = np.frombuffer(os.fsencode(os.path.join(self.root, "")), np.uint8)
        starts = self.starts[indices]
        if lengths is None:
            lengths = self.ends[indices] - starts
        longest = int(lengths.max())
        table = np.zeros((len(indices), len(root) + longest + 1), np.uint8)
        table[:, : len(root)] = root
        names = table[:, len(root) : -1]
        # Whole windows of text are copied: to pick out every byte takes five times as long.
        last = len(self.text) - longest
        windows = np.ndarray((last + 1,), f"V{longest}", self.text, strides=(1,))
        names[:] = windows[np.minimum(starts, last)].view(np.uint8).reshape(names.shape)
        names *= np.arange(longest) < lengths[:, None]
        for row in np.flatnonzero(starts > last).tolist():  # their windows begin too early
            name = self.text[starts[row] : starts[row] + lengths[row]]
            names[row] = np.pad(name, (0, longest - len(name)))
        return table

    def take(self, indices: NDArray[np.int64]) -> "ImageList":
        """Some of the images, in the order given."""
        return replace(
            self,
            starts=self.starts[indices],
            ends=self.ends[indices],
            labels=self.labels[indices],
            sizes=self.sizes[indices],
            spans=None if self.spans is None else self.spans[indices],
            lengths=None if self.lengths is None else self.lengths[indices],
            targets=None if self.targets is None else self.targets[indices],
        )

    def check_is_there(self) -> None:
        """DatasetError where the images have moved: none of some is there."""
        places = np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int).tolist()
        files = [self.path(i) if self.spans is None else self.archive(i)[0] for i in places]
        if not any(map(os.path.exists, files)):
            moved = f"; if they have moved, write where to into {self.root_is_in}"
            raise DatasetError(
                f"{files[0]} is not there, nor are other images of its list; mount their disk"
                + moved * bool(self.root_is_in)
            )

    def content(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError or ValueError where it can't be read."""
        return read(self.path(index)) if self.spans is None else read(*self.archive(index))


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
        expected = (*_fingerprinted(splits), "names.txt")
        missing = [name for name in expected if not (folder / name).is_file()]
        if missing:
            raise DatasetError(f"{folder}: {', '.join(missing)} missing; {_AGAIN}")
        if fingerprint(folder, splits) != about["fingerprint"]:
            raise DatasetError(
                f"{folder}: its files are not those that dataset.yaml was written for (changed or "
                f"half-copied); {_AGAIN}"
            )
        arrays, classes = read_arrays(folder / "sizes.npz"), _read_lines(folder / "classes.txt")
        lists = {
            name: _read_list(
                folder,
                name,
                str(folder / _on_disk(about[f"{name}_root"])),
                arrays,
                len(classes),
                kind,
            )
            for name in splits
        }
        names = _read_lines(folder / "names.txt")
        if len(names) != len(classes):
            raise DatasetError(
                f"{folder / 'names.txt'}: expected a name for each of the {len(classes)} classes, "
                f"found {len(names)}"
            )
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


def short(names: Sequence[str]) -> list[str]:
    """For pictures: the first of each class's names, in characters that can be drawn."""
    return [name.split(",")[0].encode(errors="replace").decode() for name in names]


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


@dataclass(frozen=True)
class PreparedFiles:
    """The content of a prepared folder; `rejected` and `converted` are (path, why)."""

    train: ImageList
    val: ImageList
    classes: list[str]
    names: list[str]
    stats: PixelStats
    rejected: list[tuple[str, str]]
    converted: list[tuple[str, str]]
    targets: str = "classes"
    test: ImageList | None = None

    def lists(self) -> dict[str, ImageList]:
        """Those that there are, by their names in SPLITS."""
        lists = {"train": self.train, "val": self.val}
        return lists if self.test is None else lists | {"test": self.test}

    def counts(self) -> dict[str, int]:
        """How many images there are, as dataset.yaml says it."""
        return {f"{name}_images": len(images) for name, images in self.lists().items()}

    def counted(self) -> str:
        """How many images there are, in words."""
        *first, last = (f"{len(images)} {SPLITS[name]}" for name, images in self.lists().items())
        return f"{', '.join(first)} and {last} images"

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Write every file of the format into `folder`, dataset.yaml, with `about`, last."""
        arrays: dict[str, Any] = {}
        roots = {}
        for name, images in self.lists().items():
            images.text.tofile(folder / f"{name}.txt")
            arrays |= {name: images.sizes, f"{name}_labels": images.labels}
            if images.spans is not None:
                arrays[f"{name}_spans"] = images.spans
            if images.lengths is not None:
                arrays[f"{name}_lengths"] = images.lengths
            if images.targets is not None:
                arrays[f"{name}_targets"] = images.targets
            roots[f"{name}_root"] = images.root
        np.savez(folder / "sizes.npz", **arrays)
        _write_lines(folder / "classes.txt", self.classes)
        _write_lines(folder / "names.txt", [one_line(name) for name in self.names])
        remarks = (("rejected.txt", self.rejected), ("converted.txt", self.converted))
        for file_name, files in remarks:
            lines = [f"{one_line(path)}\t{one_line(why)}" for path, why in files]
            _write_lines(folder / file_name, lines)
        with open(folder / "stats.npz", "wb") as file:
            self.stats.save(file)
        header = {
            "format": FORMAT,
            "targets": self.targets,
            "fingerprint": fingerprint(folder, self.lists()),
        }
        about = {**header, **roots, **about}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


def one_line(text: str) -> str:
    """`text` with control characters spelt out, so that it can't break a table of lines."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return printable(text)


def printable(text: str) -> str:
    """`text` with control characters spelt out, but for line breaks and tabs.

    A name may hold codes that move a terminal's cursor, or clear its screen.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode(*_NAMES))


def _read_lines(path: Path) -> list[str]:
    return path.read_bytes().decode(*_NAMES).split("\n")[:-1]


def _on_disk(root: str) -> str:
    """A root as dataset.yaml has it, as a path of its bytes, whatever the locale."""
    return os.fsdecode(root.encode(*_NAMES))


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
    folder: Path, name: str, root: str, arrays: Mapping[str, NDArray], num_classes: int, kind: str
) -> ImageList:
    """The list `name` of SPLITS, without a Python object for each line."""
    path, sizes = folder / f"{name}.txt", arrays.get(name, np.empty(0))
    text = np.fromfile(path, np.uint8)
    starts, ends = _places(text)
    if not 0 < len(starts) == sizes.size // 2 or not (starts < ends).all():
        raise DatasetError(
            f"{path}: expected {sizes.size // 2} lines 'relative/path label', found "
            f"{(starts < ends).sum()}; {_AGAIN}"
        )
    labels = arrays.get(f"{name}_labels", np.empty(0))
    spans, lengths = arrays.get(f"{name}_spans"), arrays.get(f"{name}_lengths")
    targets = arrays.get(f"{name}_targets")
    line = f"the line {name}_root of {folder / 'dataset.yaml'}"
    images = ImageList(root, text, starts, ends, labels, sizes, spans, lengths, targets, line)
    wrong = _what_is_wrong(images, num_classes, kind)
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


def _places(text: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the path of each line `relative/path label` begins and ends; paths may hold spaces."""
    line_ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], line_ends[:-1] + 1])[: len(line_ends)]
    # A line without a space ends before it starts.
    spaces = np.concatenate([[-1], np.flatnonzero(text == ord(" "))])
    return starts, spaces[np.searchsorted(spaces, line_ends) - 1]
