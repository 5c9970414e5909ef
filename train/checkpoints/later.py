"""Changes of the learning rate in the middle of a run, as the paper's authors made them by hand."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import Config
from alexnet_dali.train.optim import schedule


def begun_alike(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], epoch: int) -> bool:
    """Whether two lists of (epoch, learning rate) are the same up to `epoch`."""
    first, second = (
        sorted(tuple(pair) for pair in pairs if pair[0] <= epoch) for pairs in (old, new)
    )
    return first == second


def goes_on(folder: Path, old: Config, new: Config, epoch: int) -> bool:
    """Whether a run may go on from its plateau schedule to steps, after `epoch` epochs.

    It may where the steps that are past give the learning rate that the run has now.
    """
    found = checkpoint.newest_sound(folder / "checkpoints")
    kinds = old.optim.schedule, new.optim.schedule
    if found is None or kinds != ("plateau", "multistep"):
        return False
    saved = found[1]
    rates = schedule(new.optim, new.train.epochs)
    rates.restore({**saved["schedule"], "completed": epoch})
    return rates.lr == saved["lr"]
