"""From sources to a prepared folder: examine every file, and store it where asked to."""

import hashlib
import os
from itertools import islice
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.dataset import FORMAT
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.examine import tasks
from alexnet_dali.pipeline.prepare.forecast import Forecast
from alexnet_dali.pipeline.prepare.journal import Journal
from alexnet_dali.pipeline.prepare.prepared_files import PreparedFiles
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.store import Shards, StoreFormat, shard_name
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.pipeline.stats import PixelSums
from alexnet_dali.pipeline.system.files import sync_file_system, writing_to
from alexnet_dali.pipeline.system.progress import progress

_NO_STAMP = (-1, -1)


class Preparation(NamedTuple):
    """What to prepare: the lists' files, classes, people's names of them, and any store."""

    train: Source
    val: Source
    classes: list[str]
    names: list[str]
    store: StoreFormat | None
    targets: str = "classes"
    test: Source | None = None

    def identity(self) -> str:
        """Equal for the same files, labels, options and format."""
        digest = hashlib.sha256(repr((FORMAT, self.classes, self.store, self.targets)).encode())
        for source in (self.train, *self._evaluated_on().values()):
            for archive in sorted(source.places.archives) if source.places else ():
                about = os.stat(source.root / archive)
                digest.update(repr((archive, about.st_size, about.st_mtime_ns)).encode())
            for part in source.parts():
                digest.update(repr(part).encode() if isinstance(part, list) else part.tobytes())
        return digest.hexdigest()

    def run(self, folder: Path, notes: Path) -> PreparedFiles:
        """Examine every file, resuming from `notes`; stored images go into `folder`.

        DatasetError where no image is left.
        """
        forecast = None
        sources = {"train": self.train, **self._evaluated_on()}
        if self.store is None:
            for source in sources.values():
                _check_readable(source)
        else:
            forecast = Forecast(folder, sum(map(len, sources.values())), self.store.shards)
            sources = {part: source.distinct() for part, source in sources.items()}
        with Workers() as pool:
            if self.targets == "classes":
                _check_headers(pool, sources["train"], self.classes, self.store)
            # Training images last: what is wrong with the few is known before hours go into them.
            examined = {}
            for part, source in reversed(sources.items()):
                examined[part], sums = self._examine(pool, part, source, folder, notes, forecast)
                if part == "train" and self.targets == "classes":
                    _check_classes(source, self.classes, examined[part])
                _check_any(source, examined[part])
        found = {part: (source, examined[part]) for part, source in sources.items()}
        usable = {part: self._usable(part, *one) for part, one in found.items()}
        return PreparedFiles(
            classes=self.classes,
            names=self.names,
            stats=sums.stats(),
            rejected=[one for source, f in found.values() for one in _paths(source, f.reasons())],
            converted=[one for source, f in found.values() for one in _paths(source, f.oddities())],
            targets=self.targets,
            train=usable["train"],
            val=usable["val"],
            test=usable.get("test"),
        )

    def _evaluated_on(self) -> dict[str, Source]:
        """What training does not see."""
        return {"val": self.val} if self.test is None else {"val": self.val, "test": self.test}

    def _examine(
        self,
        pool: Workers,
        part: str,
        source: Source,
        folder: Path,
        notes: Path,
        forecast: Forecast | None,
    ) -> tuple[Findings, PixelSums]:
        """Every file of a part, a name of SPLITS; what `notes` tell of is not done again.

        Files are read as they lie in their archives, and found in the source's order.
        """
        journal = Journal(notes / part)
        order = source.reading_order()
        _check_unchanged(source, order, journal.findings())
        if forecast is not None:
            forecast.skip(journal.done)
        shards = None
        if self.store is not None and self.store.shards:
            shards = Shards(folder / "shards", part, journal.position)
        remaining = tasks(
            source, order[journal.done :], part == "train", self.store, folder / "images" / part
        )
        with progress(len(order), part, "images", done=journal.done) as advance:
            for found, stored, sums in pool.results(remaining):
                with writing_to(folder):
                    if forecast is not None:
                        forecast.add(len(found.rows), list(map(len, stored)) or _lengths(found))
                    if shards is not None:
                        _place(found, shards.add(stored))
                    journal.add(found, sums)
                    if journal.is_due():
                        journal.save(self._safe_position(shards, folder))
                advance(len(found.rows))
        with writing_to(folder):
            if shards is not None:
                shards.close()
            return journal.findings().in_order(order), journal.sums

    def _safe_position(self, shards: Shards | None, folder: Path) -> tuple[int, int]:
        """How far the shards have come; all images that were stored are safe on disk."""
        if shards is not None:
            return shards.position()
        if self.store is not None:
            sync_file_system(folder)
        return 0, 0

    def _usable(self, part: str, source: Source, found: Findings) -> ImageList:
        """The list of the files that can be used; each has a length, or a span of an archive."""
        usable = np.flatnonzero(found.usable())
        files, rows = source.take(usable), found.rows[usable]
        about = files.labels, rows["size"]
        targets = files.targets
        if self.store is None:
            listed, root = map(files.listed_name, range(len(files))), str(source.root)
            if files.places is not None:
                spans = files.places.spans()
                return ImageList.of(root, listed, *about, spans=spans, targets=targets)
            return ImageList.of(root, listed, *about, lengths=rows["length"], targets=targets)
        stored, lengths = map(files.stored_name, range(len(files))), rows["length"]
        if not self.store.shards:
            return ImageList.of(f"images/{part}", stored, *about, lengths=lengths, targets=targets)
        shards = (f"{shard_name(part, shard)}/" for shard in rows["shard"])
        listed = map(add, shards, stored)
        return ImageList.of("shards", listed, *about, _spans(part, rows), targets=targets)


def _check_headers(
    pool: Workers, source: Source, classes: list[str], store: StoreFormat | None
) -> None:
    """Every class needs a file that is an image by its header: known before hours of work."""
    order = source.reading_order()
    order = order[np.argsort(source.labels[order], kind="stable")]
    first = np.flatnonzero(np.diff(source.labels[order], prepend=-1))
    for files in np.split(order, first[1:]):
        reasons: dict[int, str] = {}
        for index in map(int, files):
            reasons[index] = pool.why_not_decoded(source, index, store)
            if not reasons[index]:
                break
        else:
            name = classes[source.labels[files[0]]]
            _complain(source, f"no usable image in class folder {name}", reasons)


def _check_readable(source: Source) -> None:
    """Training must be able to read the files where they are."""
    if source.must_be_stored():
        raise DatasetError(
            f"{source.root}: training can't read images in place that are compressed or in parquet "
            "files; store them with --resize 256"
        )


def _check_unchanged(source: Source, order: NDArray[np.int64], found: Findings) -> None:
    """What was found before an interruption must still be true."""
    for index, row in zip(order, found.rows, strict=False):
        stamp = tuple(row["stamp"].tolist())
        if stamp != _NO_STAMP and source.stamp(index) != stamp:
            raise DatasetError(
                f"{source.root}/{source.listed_name(index)} has changed since this preparation "
                "began, so what was done is given up; rerun the command to begin afresh"
            )


def _place(found: Findings, places: NDArray[np.int64]) -> None:
    """Note where the entries of usable files are, [n, 2]: shard, and offset there."""
    usable = found.usable()
    found.rows["shard"][usable] = places[:, 0]
    found.rows["span"][usable, 0] += places[:, 1]


def _lengths(found: Findings) -> list[int]:
    """Bytes of the files that were written."""
    return found.rows["length"][found.usable()].tolist()


def _spans(part: str, rows: NDArray[np.void]) -> NDArray[np.int64]:
    """[n, 3], see image_list.ImageList."""
    names = [len(shard_name(part, shard)) for shard in range(rows["shard"].max(initial=0) + 1)]
    return np.column_stack([np.array(names)[rows["shard"]], rows["span"]])


def _paths(source: Source, remarks: dict[int, str]) -> list[tuple[str, str]]:
    """(path, remark) of the files that have one."""
    return [(f"{source.root}/{source.listed_name(place)}", why) for place, why in remarks.items()]


def _check_classes(source: Source, classes: list[str], found: Findings) -> None:
    """Every training class needs an image that can be used."""
    lost = set(range(len(classes))) - set(np.unique(source.labels[found.usable()]).tolist())
    if lost:
        what = f"no usable image for training in class folder {classes[min(lost)]}"
        _complain(source, f"{what}, but for what --hold-out may have taken", found.reasons())


def _check_any(source: Source, found: Findings) -> None:
    if not found.usable().any():
        _complain(source, "no usable image at all", found.reasons())


def _complain(source: Source, what: str, why: dict[int, str]) -> None:
    rejected = _paths(source, dict(islice(why.items(), 5)))
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in rejected)
    raise DatasetError(f"{source.root}: {what}; add images, or remove the folder{reasons}")
