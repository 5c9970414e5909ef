"""The paper's update rule and learning-rate schedule (section 5)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
        lr_factors: learning rates of single layers, as multiples of lr: {fc8: 10}, {conv1.weight: 0}, or {bias: 2}.
        schedule: plateau divides lr by 10 when the validation error stalls (section 5); steps, after `drop_epochs`;
            exponential, evenly with every epoch, by `decay` in all.
        lr_drops: plateau: how often lr drops before the next stall ends training.
        patience: plateau: epochs without a lower validation error that count as a stall.
        drop_epochs: steps: epochs after which lr drops (2012 code: 25, 51, 79).
        decay: exponential: the first learning rate over that after the last epoch (2012 code: 250).
    """

    lr: PositiveFloat = 0.01
    momentum: ClosedUnitInterval = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    lr_factors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    schedule: Literal["plateau", "steps", "exponential"] = "plateau"
    lr_drops: NonNegativeInt = 3
    patience: PositiveInt = 5
    drop_epochs: tuple[PositiveInt, ...] = (25, 51, 79)
    decay: PositiveFloat = 250.0


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay lr w - lr g;  w <- w + v.

    torch keeps the buffer b = -v / lr, which is the same rule until lr changes. Rescaling b then keeps v, and the
    rule, exact.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> None:
        """`parameters` by name, such as conv1.weight behind any prefix. ValueError for a factor that fits none."""
        self._lr = float(config.lr)
        groups: dict[float, list[nn.Parameter]] = {}
        unused = set(config.lr_factors)
        for name, parameter in parameters:
            key, factor = _factor(name, config.lr_factors)
            unused.discard(key)
            groups.setdefault(factor, []).append(parameter)
        if unused:
            raise ValueError(
                f"optim.lr_factors: no layer is named {', '.join(sorted(unused))}; expected names such as fc8, "
                "conv1.weight, or bias"
            )
        super().__init__(
            [{"params": group, "lr": factor * self._lr, "factor": factor} for factor, group in groups.items()],
            momentum=float(config.momentum),
            weight_decay=float(config.weight_decay),
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next update, where no factor says otherwise."""
        return self._lr

    @lr.setter
    def lr(self, new: float) -> None:
        for state in self.state.values():
            if state["momentum_buffer"] is not None:
                state["momentum_buffer"].mul_(self._lr / new)
        self._set(new)

    def _set(self, lr: float) -> None:
        self._lr = lr
        for group in self.param_groups:
            group["lr"] = group["factor"] * lr

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
        self._set(lr)
        for name, parameter in module.named_parameters():
            # The fused update walks parameter and buffer side by side in memory: their layouts must be the same.
            self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffers[name])


def _factor(name: str, factors: dict[str, float]) -> tuple[str, float]:
    """The factor for a parameter, and what it is listed under: conv1.weight, else conv1, else weight."""
    layer, kind = name.split(".")[-2:] if "." in name else ("", name)
    for key in (f"{layer}.{kind}", layer, kind):
        if key in factors:
            return key, float(factors[key])
    return "", 1.0


class Schedule(Protocol):
    """The learning rate over the epochs."""

    @property
    def lr(self) -> float:
        """The learning rate now."""
        ...

    @property
    def finished(self) -> bool:
        """True where training should end before its last epoch."""
        ...

    def end_epoch(self, val_error: float) -> None:
        """Take note of an epoch's validation error."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


def schedule(config: OptimConfig, epochs: int) -> "Schedule":
    """The schedule that `config` names, for a run of `epochs`."""
    if config.schedule == "plateau":
        return PlateauSchedule(config)
    return EpochSchedule(config, epochs)


class EpochSchedule:
    """A learning rate that depends on the number of epochs completed alone."""

    def __init__(self, config: OptimConfig, epochs: int) -> None:
        self._config, self._epochs = config, epochs
        self._completed = 0

    @property
    def lr(self) -> float:
        """See Schedule."""
        if self._config.schedule == "steps":
            return self._config.lr / 10 ** sum(self._completed >= epoch for epoch in self._config.drop_epochs)
        return self._config.lr * self._config.decay ** (-self._completed / self._epochs)

    @property
    def finished(self) -> bool:
        """See Schedule: `train.epochs` ends it."""
        return False

    def end_epoch(self, val_error: float) -> None:
        """See Schedule."""
        self._completed += 1

    def state(self) -> dict[str, Any]:
        """See Schedule."""
        return {"completed": self._completed}

    def restore(self, state: dict[str, Any]) -> None:
        """See Schedule."""
        self._completed = state["completed"]


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
