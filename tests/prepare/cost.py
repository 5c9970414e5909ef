"""What preparing costs the one process that hands out tasks, merges results and writes shards.

    python -m tests.prepare.cost ILSVRC/train

prints its processor time for an image, of images in class folders, with all that workers send.

    python -m tests.prepare.cost 1400000

prints its memory and processor time for so many files that are not there, whose results come from
no worker: for lists longer than any at hand.
"""

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from alexnet_dali.pipeline.prepare import preparation
from alexnet_dali.pipeline.prepare.examine import Examined, Task
from alexnet_dali.pipeline.prepare.preparation import Preparation
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.prepare.sources import Source, hold_out, training_files
from alexnet_dali.pipeline.prepare.store import StoreFormat
from alexnet_dali.pipeline.stats import PixelSums

FORMS = {
    "in place": None,
    "loose files": StoreFormat(256, 90, shards=False),
    "shards": StoreFormat(256, 90, shards=True),
}


def run(train: Source, val: Source, classes: list[str], store: StoreFormat | None) -> float:
    """Prepare into a folder that is deleted; seconds of this process for each image."""
    with tempfile.TemporaryDirectory() as folder:
        out, notes = Path(folder) / "out", Path(folder) / "notes"
        out.mkdir()
        notes.mkdir()
        begun = time.process_time()
        Preparation(train, val, classes, classes, store).run(out, notes).write(out, {})
        return (time.process_time() - begun) / (len(train) + len(val))


class NoWorkers(contextlib.nullcontext["NoWorkers"]):
    """Makes up what workers would find."""

    def __enter__(self) -> "NoWorkers":
        return self

    def results(self, tasks: Iterable[Task]) -> Iterator[Examined]:
        sums = PixelSums(count=64)
        for task in tasks:
            found = Findings.none(len(task))
            found.rows["size"] = 375, 500
            yield Examined(found, [], sums)


def made_up(count: int) -> tuple[Source, list[str]]:
    """`count` names in 1000 classes, as ImageNet's."""
    classes = [f"n{number:08d}" for number in range(1000)]
    names = (f"{classes[i * 1000 // count]}/n{i:08d}_{i:07d}.JPEG" for i in range(count))
    return Source.of(Path("/images"), names, [i * 1000 // count for i in range(count)]), classes


def main(what: str) -> None:
    """Print the figures of a folder, or of a number of files that are made up."""
    if not what.isdecimal():
        source, classes, _, _ = training_files(Path(what).absolute())
        for name, store in FORMS.items():
            seconds = run(*hold_out(source, 0.05, 0), classes, store)
            print(f"{name}: {1000 * seconds:.3f} ms an image, of {len(source)} images")
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source, classes = made_up(int(what))
    preparation.Workers = NoWorkers  # type: ignore[assignment, misc]
    seconds = run(*hold_out(source, 0.05, 0), classes, None)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{1e6 * seconds:.1f} microseconds and {1024 * most / len(source):.0f} bytes a file")


if __name__ == "__main__":
    main(sys.argv[1])
