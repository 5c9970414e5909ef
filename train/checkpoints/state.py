"""What changes from step to step, and goes into a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.train.optim import OptimConfig, PaperSGD, Schedule, schedule


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

    @classmethod
    def initial(cls, model: AlexNet, config: OptimConfig, epochs: int) -> "TrainingState":
        """That of a run of `epochs` epochs, before its first step."""
        optimizer, rates = PaperSGD(model.named_parameters(), config), schedule(config, epochs)
        optimizer.set_lr(rates.lr)  # one that warms up begins below optim.lr
        return cls(model, optimizer, rates, new_sums(next(model.parameters()).device))

    def gather(self, all_gather_over_pairs: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The state as a checkpoint holds it: the whole network's, for any number of ranks.

        Every rank must call it.
        """
        momentum = [self.optimizer.momentum(column) for column in self.model.own_columns]
        return {
            "step": self.step,
            "model": self.model.full_state(),
            "momentum": self.model.columns.merge(momentum),
            "lr": self.optimizer.lr,
            "schedule": self.schedule.state(),
            "intervals": all_gather_over_pairs(self.sums),
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

    def restore(self, saved: dict[str, Any], epoch: int, pair: int, num_pairs: int) -> None:
        """Go on from what `gather` gave, after `epoch` epochs, as one pair of any number.

        ValueError where it was of another schedule.
        """
        self.model.load_full_state(saved["model"])
        momentum = self.model.columns.split(saved["momentum"])
        for column, own in zip(self.model.own_columns, momentum, strict=True):
            self.optimizer.restore(column, own, saved["lr"], epoch)
        try:
            self.schedule.restore(saved["schedule"])
        except KeyError as error:
            raise ValueError(
                f"the checkpoint was written with another learning-rate schedule (it has no "
                f"{error}); give the optim.schedule it was trained with, or another --run.dir"
            ) from error
        self._restore_sums(saved["intervals"], pair, num_pairs)
        self.step = saved["step"]

    def _restore_sums(self, of_pairs: Tensor, pair: int, num_pairs: int) -> None:
        """Each pair takes its own sums; if their number has changed, the first pair takes all."""
        if len(of_pairs) == num_pairs:
            self.sums.copy_(of_pairs[pair])
        elif pair == 0:
            # Other pairs counted the steps then: weigh them as this number of pairs would have.
            self.sums.copy_(of_pairs.sum(0) * (num_pairs / len(of_pairs)))


def new_sums(device: torch.device) -> Tensor:
    """The `sums` of a run that begins."""
    return torch.zeros(3, dtype=torch.float64, device=device)
