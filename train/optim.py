"""The paper's update rule and learning-rate schedule (section 5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated; the defaults are the paper's (section 5).

    Args:
        lr: initial learning rate.
        momentum: share of the last update that goes into the next.
        weight_decay: pull of every weight towards zero, a share of lr.
        lr_drops: how often the learning rate is divided by 10 when the validation error stalls, before training ends.
        patience: epochs without a lower validation error that count as a stall.
    """

    lr: PositiveFloat = 0.01
    momentum: ClosedUnitInterval = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    lr_drops: NonNegativeInt = 3
    patience: PositiveInt = 5


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay lr w - lr g;  w <- w + v.

    torch keeps the buffer b = -v / lr, which is the same rule until lr changes. Rescaling b then keeps v, and the
    rule, exact.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimConfig) -> None:
        super().__init__(
            parameters,
            lr=float(config.lr),
            momentum=float(config.momentum),
            weight_decay=float(config.weight_decay),
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, new: float) -> None:
        for state in self.state.values():
            if state["momentum_buffer"] is not None:
                state["momentum_buffer"].mul_(self.lr / new)
        self.param_groups[0]["lr"] = new

    def momentum(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The buffers of a module's parameters by name; zeros where there is no momentum."""
        buffers = {name: self.state[parameter].get("momentum_buffer") for name, parameter in module.named_parameters()}
        return {
            name: torch.zeros_like(parameter) if buffers[name] is None else buffers[name]
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def restore(self, module: nn.Module, buffers: dict[str, torch.Tensor], lr: float) -> None:
        """Go on from buffers that `momentum` gave and the learning rate that they belong to."""
        self.param_groups[0]["lr"] = lr
        for name, parameter in module.named_parameters():
            # The fused update walks parameter and buffer side by side in memory: their layouts must be the same.
            self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffers[name])


class PlateauSchedule:
    """Divide lr by 10 when the validation error stops falling; after `lr_drops` such stalls the next one ends training.

    The paper did this by hand: "divide the learning rate by 10 when the validation error rate stopped improving".
    """

    def __init__(self, config: OptimConfig) -> None:
        self._config = config
        self.drops = 0
        self.best_error = float("inf")
        self.stalled_epochs = 0

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return self._config.lr / 10**self.drops

    @property
    def finished(self) -> bool:
        """True once the error has stalled at the lowest learning rate."""
        return self.drops > self._config.lr_drops

    def end_epoch(self, val_error: float) -> None:
        """Take note of an epoch's validation error."""
        if val_error < self.best_error:
            self.best_error = val_error
            self.stalled_epochs = 0
            return
        self.stalled_epochs += 1
        if self.stalled_epochs == self._config.patience:
            self.drops += 1
            self.stalled_epochs = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"drops": self.drops, "best_error": self.best_error, "stalled_epochs": self.stalled_epochs}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.drops, self.best_error = state["drops"], state["best_error"]
        self.stalled_epochs = state["stalled_epochs"]
