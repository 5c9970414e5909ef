"""From sources to a prepared folder: examine every file, and store it where asked to."""

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import DatasetError, ImageList, PreparedFiles
from pipeline.files import writing_to
from pipeline.prepare.examine import tasks
from pipeline.prepare.ledger import Finding, Ledger
from pipeline.prepare.sources import Source
from pipeline.prepare.store import LooseFiles, Shards, Store, StoreFormat, stored_name
from pipeline.prepare.workers import Workers
from pipeline.progress import progress
from pipeline.stats import PixelSums


class Preparation(NamedTuple):
    """What to prepare: both lists' files, classes, people's names of them, and any store."""

    train: Source
    val: Source
    classes: list[str]
    names: list[str]
    store: StoreFormat | None

    def identity(self) -> str:
        """Equal for the same files, labels and options."""
        digest = hashlib.sha256(repr((self.classes, self.store)).encode())
        for source in (self.train, self.val):
            for archive in sorted({place.archive for place in source.places or ()}):
                about = os.stat(source.root / archive)
                digest.update(repr((archive, about.st_size, about.st_mtime_ns)).encode())
            digest.update(
                repr((str(source.root), source.names, source.labels, source.places)).encode()
            )
        return digest.hexdigest()

    def run(self, folder: Path, notes: Path) -> PreparedFiles:
        """Examine every file, resuming from `notes`; stored images go into `folder`.

        DatasetError where no image is left.
        """
        for source in (self.train, self.val):
            _check_names(source) if self.store else _check_readable(source)
        with Workers() as pool:
            # The smaller part first: what is wrong with it is known before hours go into the other.
            val, _ = self._examine(pool, "val", self.val, folder, notes)
            _check_any(self.val, val)
            train, sums = self._examine(pool, "train", self.train, folder, notes)
            _check_classes(self.train, self.classes, train)
        return PreparedFiles(
            _usable(self.train, train, self._root("train", self.train)),
            _usable(self.val, val, self._root("val", self.val)),
            self.classes,
            self.names,
            sums.stats(),
            _remarks(self.train, [one.reason for one in train])
            + _remarks(self.val, [one.reason for one in val]),
            _remarks(self.train, [one.oddity for one in train])
            + _remarks(self.val, [one.oddity for one in val]),
        )

    def _examine(
        self, pool: Workers, part: str, source: Source, folder: Path, notes: Path
    ) -> tuple[list[Finding], PixelSums]:
        """Every file of a part, train or val; what `notes` tell of is not done again.

        Files are read as they lie in their archives, and found in the source's order.
        """
        ledger = Ledger(notes / f"{part}.jsonl")
        store = self._open_store(part, source, folder, ledger.position)
        order = source.reading_order()
        _check_unchanged(source, order, ledger.findings())
        remaining = source.take(order[ledger.done :])
        with progress(len(order), part, "images", done=ledger.done) as advance:
            for found, sums in pool.results(tasks(remaining, part == "train", self.store)):
                with writing_to(folder):
                    for finding, image in found:
                        ledger.add(_placed(finding, image, source, order[ledger.done], store))
                    if sums is not None:
                        ledger.sums.merge(sums)
                    if ledger.is_due():
                        ledger.save(store.position() if store else (0, 0))
                advance(len(found))
        with writing_to(folder):
            if store:
                store.close()
            findings = ledger.findings()
        return [findings[place] for place in np.argsort(order)], ledger.sums

    def _open_store(
        self, part: str, source: Source, folder: Path, position: tuple[int, int]
    ) -> Store | None:
        if self.store is None:
            return None
        if self.store.shards:
            return Shards(folder / "shards", part, position)
        return LooseFiles(folder / "images" / part)

    def _root(self, part: str, source: Source) -> str:
        if self.store is None:
            return str(source.root)
        return "shards" if self.store.shards else f"images/{part}"


def _check_names(source: Source) -> None:
    """No file may take another's place in the store."""
    names = sorted(stored_name(name) for name in source.names)
    twice = next((name for name, again in pairwise(names) if name == again), None)
    if twice is not None:
        raise DatasetError(
            f"{source.root}: two files would be stored as {twice}; rename one of them"
        )


def _check_readable(source: Source) -> None:
    """Training must be able to read the files where they are."""
    if source.must_be_stored():
        raise DatasetError(
            f"{source.root}: training can't read images in place that are compressed or in parquet "
            "files; store them with --resize 256"
        )


def _check_unchanged(source: Source, order: NDArray[np.int64], found: list[Finding]) -> None:
    """What was found before an interruption must still be true."""
    for index, finding in zip(order, found, strict=False):
        if finding.stamp is not None and source.stamp(index) != finding.stamp:
            raise DatasetError(
                f"{source.root}/{source.listed_name(index)} has changed since this preparation "
                "began, so what was done is given up; rerun the command to begin afresh"
            )


def _placed(
    finding: Finding, image: bytes, source: Source, index: int, store: Store | None
) -> Finding:
    """The finding, with the place where training will read the image; stores it where asked to."""
    if store is None or finding.size is None:
        span = source.places[index].span() if source.places else None
        return finding._replace(span=span, length=finding.stamp[0] if finding.stamp else None)
    name, span = store.add(source.names[index], source.labels[index], image)
    return finding._replace(name=name, span=span, length=None if span else len(image))


def _usable(source: Source, findings: list[Finding], root: str) -> ImageList:
    """The list of the files that can be used."""
    names, labels, sizes, spans, lengths = [], [], [], [], []
    for finding, label in zip(findings, source.labels, strict=True):
        if finding.size:
            names.append(finding.name)
            labels.append(label)
            sizes.append(finding.size)
            spans += [finding.span] if finding.span else []
            lengths += [finding.length] if finding.length is not None else []
    return ImageList.of(root, names, labels, sizes, spans, lengths)


def _remarks(source: Source, remarks: list[str]) -> list[tuple[str, str]]:
    """(path, remark) of the files that have one."""
    return [
        (f"{source.root}/{source.listed_name(index)}", why)
        for index, why in enumerate(remarks)
        if why
    ]


def _check_classes(source: Source, classes: list[str], findings: list[Finding]) -> None:
    """Every training class needs an image that can be used."""
    lost = set(range(len(classes))) - {
        label for finding, label in zip(findings, source.labels, strict=True) if finding.size
    }
    if lost:
        _complain(source, f"no usable image in class folder {classes[min(lost)]}", findings)


def _check_any(source: Source, findings: list[Finding]) -> None:
    if not any(finding.size for finding in findings):
        _complain(source, "no usable image at all", findings)


def _complain(source: Source, what: str, findings: list[Finding]) -> None:
    rejected = _remarks(source, [finding.reason for finding in findings])
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in rejected[:5])
    raise DatasetError(f"{source.root}: {what}; add images, or remove the folder{reasons}")
