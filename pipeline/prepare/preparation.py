"""From sources to what a prepared folder holds: examine every file, store it where asked to, and
take stock.
"""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from pipeline.dataset import DatasetError, Listed, PreparedFiles
from pipeline.prepare.examine import examine, workers
from pipeline.prepare.ledger import Entry, Ledger
from pipeline.prepare.sources import Source
from pipeline.prepare.store import LooseFiles, Shards, Store, StoreFormat, stored_name
from pipeline.stats import PixelSums


class Preparation(NamedTuple):
    """What to prepare: both parts' files, the class names, and how to store the images, if at
    all.
    """

    train: Source
    val: Source
    classes: list[str]
    store: StoreFormat | None

    def identity(self) -> str:
        """Equal for the same files, labels and options."""
        digest = hashlib.sha256(repr((self.classes, self.store)).encode())
        for source in (self.train, self.val):
            digest.update(
                repr((str(source.root), source.names, source.labels, source.spans)).encode()
            )
        return digest.hexdigest()

    def run(self, folder: Path, notes: Path) -> PreparedFiles:
        """Examine every file, going on from `notes`; stored images go into `folder`. DatasetError
        if none is left.
        """
        for source in (self.train, self.val) if self.store else ():
            _check_names(source)
        with workers() as pool:
            # The smaller part first: what is wrong with it is known before hours go into the other.
            val, _ = self._examine(pool, "val", self.val, folder, notes)
            _check_any(self.val, val)
            train, sums = self._examine(pool, "train", self.train, folder, notes)
            _check_classes(self.train, self.classes, train)
        about = {
            "train_root": self._root("train", self.train),
            "val_root": self._root("val", self.val),
        }
        return PreparedFiles(
            _listed(self.train, train),
            _listed(self.val, val),
            self.classes,
            sums.stats(),
            _remarks(self.train, [entry.reason for entry in train])
            + _remarks(self.val, [entry.reason for entry in val]),
            _remarks(self.train, [entry.mended for entry in train])
            + _remarks(self.val, [entry.mended for entry in val]),
            about,
        )

    def _examine(
        self, pool: ProcessPoolExecutor, part: str, source: Source, folder: Path, notes: Path
    ) -> tuple[list[Entry], PixelSums]:
        ledger = Ledger(notes / f"{part}.jsonl")
        store = self._open_store(part, source, folder, ledger.position)
        remaining = source.take(range(ledger.done, len(source.names)))
        with tqdm(
            total=len(source.names), initial=ledger.done, desc=part, unit=" images", disable=None
        ) as progress:
            for findings in examine(pool, remaining, part == "train", self.store):
                for finding in findings.files:
                    index = ledger.done
                    name, span = source.names[index], source.spans[index] if source.spans else None
                    if store and finding.size:
                        name, span = store.add(
                            source.inner_name(index), source.labels[index], finding.image
                        )
                    ledger.add(Entry(name, finding.size, finding.reason, finding.mended, span))
                if findings.sums is not None:
                    ledger.sums.merge(findings.sums)
                if ledger.is_due():
                    ledger.save(store.position() if store else (0, 0))
                progress.update(len(findings.files))
        if store:
            store.close()
        return ledger.entries(), ledger.sums

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
    names = sorted(stored_name(source.inner_name(index)) for index in range(len(source.names)))
    twice = next((name for name, again in pairwise(names) if name == again), None)
    if twice is not None:
        raise DatasetError(
            f"{source.root}: two files would be stored as {twice}; rename one of them"
        )


def _listed(source: Source, entries: list[Entry]) -> Listed:
    """What can be used."""
    usable = [
        (entry, label) for entry, label in zip(entries, source.labels, strict=True) if entry.size
    ]
    return Listed(
        [entry.name for entry, _ in usable],
        [label for _, label in usable],
        [entry.size for entry, _ in usable if entry.size],
        [entry.span for entry, _ in usable if entry.span],
    )


def _remarks(source: Source, remarks: list[str]) -> list[tuple[str, str]]:
    """(path, remark) of the files that have one."""
    return [
        (f"{source.root}/{name}", why)
        for name, why in zip(source.names, remarks, strict=True)
        if why
    ]


def _check_classes(source: Source, classes: list[str], entries: list[Entry]) -> None:
    """Every training class needs an image that can be used."""
    lost = set(range(len(classes))) - {
        label for entry, label in zip(entries, source.labels, strict=True) if entry.size
    }
    if lost:
        _complain(source, f"no usable image in class folder {classes[min(lost)]}", entries)


def _check_any(source: Source, entries: list[Entry]) -> None:
    if not any(entry.size for entry in entries):
        _complain(source, "no usable image at all", entries)


def _complain(source: Source, what: str, entries: list[Entry]) -> None:
    rejected = _remarks(source, [entry.reason for entry in entries])
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in rejected[:5])
    raise DatasetError(f"{source.root}: {what}; add images, or remove the folder{reasons}")
