"""The epoch with the lowest validation error, and its checkpoint, `best.pt`."""

import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_dali.pipeline.files import atomic_write

NAME = "best.pt"


@dataclass
class Best:
    """The lowest top-1 error on the validation images so far, after which epoch, and the last one.

    Every checkpoint holds it, so it is right after any kill.
    """

    top1_error: float = math.inf
    epoch: int = 0
    last_error: float = math.inf

    def note(self, top1_error: float, epoch: int) -> None:
        """Take note of the error after `epoch`; of equal ones, the first is the best."""
        self.last_error = top1_error
        if top1_error < self.top1_error:
            self.top1_error, self.epoch = top1_error, epoch

    def is_of(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the checkpoint of this step is the best."""
        return self.epoch > 0 and step == self.epoch * steps_per_epoch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def report(self, checkpoints: Path) -> str:
        """For the run's last line."""
        if not self.epoch:
            return ""
        path = checkpoints / NAME
        where = f" ({path})" if path.exists() else ""
        return (
            f"best validation top-1 error {self.top1_error:.2%} after epoch {self.epoch}{where}, "
            f"last {self.last_error:.2%}; "
        )


def keep(path: Path) -> None:
    """Let `best.pt` beside the checkpoint at `path` be that checkpoint: at once, or not at all.

    It takes no space until the checkpoint is removed, except where files can't have two names.
    """
    best = path.with_name(NAME)
    temporary = best.with_name(f".{NAME}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        with open(path, "rb") as source, atomic_write(best) as file:
            shutil.copyfileobj(source, file)
        return
    os.replace(temporary, best)
    temporary.unlink(missing_ok=True)  # where it was that file already, the system keeps both names
