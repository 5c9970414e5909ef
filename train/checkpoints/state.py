"""What changes from step to step, and goes into a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.train.checkpoints.checkpoint import CheckpointError
from alexnet_dali.train.optim import PaperSGD, Schedule
from alexnet_dali.train.parallel.ranks import Ranks


@dataclass
class TrainingState:
    """The network, its optimizer, and how far training has come.

    `sums` [3] float64 holds the losses, the top-1 errors and the number of steps since the last log
    line. Each pair of ranks has its own.
    """

    model: AlexNet
    optimizer: PaperSGD
    schedule: Schedule
    sums: Tensor
    step: int = 0

    def gather(self, ranks: Ranks) -> dict[str, Any]:
        """The state as a checkpoint holds it: the whole network's, for any number of ranks.

        Every rank must call it.
        """
        momentum = [self.optimizer.momentum(column) for column in self.model.own_columns]
        return {
            "step": self.step,
            "model": self.model.full_state(),
            "momentum": ranks.columns.merge(momentum),
            "lr": self.optimizer.lr,
            "schedule": self.schedule.state(),
            "intervals": ranks.all_gather_over_pairs(self.sums),
        }

    def is_finite(self) -> bool:
        """Whether this rank's weights, gradients and momentum are all numbers."""
        momentum = [self.optimizer.momentum(column) for column in self.model.own_columns]
        tensors = [value for of_column in momentum for value in of_column.values()]
        for parameter in self.model.parameters():
            tensors.append(parameter.detach())
            if parameter.grad is not None:
                tensors.append(parameter.grad)
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def restore(self, saved: dict[str, Any], ranks: Ranks, epoch: int) -> None:
        """Go on from what `gather` gave, after `epoch` epochs; the ranks may be others.

        CheckpointError where it was of another schedule.
        """
        self.model.load_full_state(saved["model"])
        momentum = ranks.columns.split(saved["momentum"])
        for column, own in zip(self.model.own_columns, momentum, strict=True):
            self.optimizer.restore(column, own, saved["lr"], epoch)
        try:
            self.schedule.restore(saved["schedule"])
        except KeyError as error:
            raise CheckpointError(
                f"the checkpoint was written with another learning-rate schedule (it has no "
                f"{error}); give the optim.schedule it was trained with, or another --run.dir"
            ) from error
        self._restore_sums(saved["intervals"], ranks)
        self.step = saved["step"]

    def _restore_sums(self, of_pairs: Tensor, ranks: Ranks) -> None:
        """Each pair takes its own sums; if their number has changed, the first pair takes all."""
        if len(of_pairs) == ranks.num_pairs:
            self.sums.copy_(of_pairs[ranks.pair])
        elif ranks.pair == 0:
            # Other pairs counted the steps then: weigh them as this number of pairs would have.
            self.sums.copy_(of_pairs.sum(0) * (ranks.num_pairs / len(of_pairs)))


def new_sums(device: torch.device) -> Tensor:
    """The `sums` of a run that begins."""
    return torch.zeros(3, dtype=torch.float64, device=device)


def check_shapes(path: Path, full: dict[str, Tensor], model: AlexNet) -> None:
    """CheckpointError where the `full` network of the checkpoint at `path` is not like `model`."""
    own = model.own_columns[0].state_dict()
    found = {key: tuple(value.shape) for key, value in model.columns.split(full)[0].items()}
    expected = {key: tuple(value.shape) for key, value in own.items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise CheckpointError(
                f"{path} holds another network: {key} is {found.get(key)}, expected "
                f"{expected.get(key)}; choose the config it was trained with, or another --run.dir"
            )
