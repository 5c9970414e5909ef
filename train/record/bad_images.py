"""Images that go bad during a run: reported, listed, and capped."""

import os
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError, one_line
from alexnet_dali.pipeline.reading.replacements import BadImage, OnBadImage, stop
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.train.parallel.ranks import Ranks

_LIST = "bad_images.txt"
_NOT_COUNTED = "not counted"
_REPLACED = "another image is used in its place, and training goes on"


class BadImages:
    """What the loaders of all ranks report; the main rank lists it in the run's folder.

    In training another image stands in for a bad one. In an evaluation a bad one is not counted.
    """

    def __init__(self, folder: Path, num_images: int, max_fraction: float, ranks: Ranks) -> None:
        """`num_images` are those to train on, `max_fraction` of which may be bad in an epoch.

        With 0, the first one ends the run.
        """
        self._path, self._ranks = folder / _LIST, ranks
        self._num_images, self._max_fraction = num_images, max_fraction
        self._training: list[BadImage] = []
        self._evaluation: list[BadImage] = []
        self._epoch, self._of_epoch = 0, set[int]()
        self._rows: int | None = None  # of training batches since the last metrics; None before any
        self._reported = set[str]()
        stops = max_fraction == 0
        self.in_training: OnBadImage = stop if stops else self._training.append
        self.in_evaluation: OnBadImage = stop if stops else self._evaluation.append

    def forget_after(self, step: int) -> None:
        """Delete what an interrupted run listed of later steps."""
        if self._path.exists():
            self._rows = 0
            lines = self._path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if int(line.split(b"\t")[0]) <= step]
            with atomic_write(self._path) as file:
                file.writelines(kept)

    def metrics(self) -> dict[str, float]:
        """Rows of training batches that stand-ins have filled since the last call.

        Empty in a run without bad images.
        """
        if self._rows is None:
            return {}
        rows, self._rows = self._rows, 0
        return {"data/replacements": rows}

    def share(self, step: int, steps_per_epoch: int) -> None:
        """Give all ranks what each has found since the last call; every rank must call it.

        DatasetError where an epoch has more bad images than data.max_bad_fraction.
        """
        (found,) = self._ranks.all_reduce_max([len(self._training) + len(self._evaluation)])
        if not found:
            return
        everyones = self._ranks.all_gather_object((self._training, self._evaluation))
        training = [bad for of_rank, _ in everyones for bad in of_rank]
        evaluation = [bad for _, of_rank in everyones for bad in of_rank]
        self._training.clear()
        self._evaluation.clear()
        if self._ranks.is_main:
            not_counted = [bad._replace(step=step, replacement=_NOT_COUNTED) for bad in evaluation]
            self._list(not_counted + training)
        self._rows = (self._rows or 0) + len(training)
        for bad in sorted(training):
            self._count(bad.number, bad.step // steps_per_epoch)

    def _list(self, found: list[BadImage]) -> None:
        with open(self._path, "ab") as file:
            for bad in found:
                words = map(one_line, (bad.path, bad.why, bad.replacement))
                file.write(os.fsencode("\t".join([str(bad.step), *words]) + "\n"))
        for bad in found:
            if bad.path not in self._reported:
                self._reported.add(bad.path)
                goes_on = "it is not counted" if bad.replacement == _NOT_COUNTED else _REPLACED
                self._ranks.say(
                    f"warning: {one_line(str(bad))}; {goes_on}. Restore it (see {self._path})"
                )

    def _count(self, number: int, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._of_epoch = epoch, set()
        self._of_epoch.add(number)
        if len(self._of_epoch) > max(1, self._max_fraction * self._num_images):
            raise DatasetError(
                f"{len(self._of_epoch)} of {self._num_images} training images can't be used any "
                f"more in epoch {epoch + 1}, above data.max_bad_fraction, "
                f"{self._max_fraction:.1%}; {self._path} lists them. Restore them and rerun the "
                "command to resume"
            )
