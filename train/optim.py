"""The paper's update rule and learning-rate schedule (section 5)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn

from alexnet_dali.model.option_types import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
)


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated; the defaults are the paper's (section 5).

    Args:
        lr: initial learning rate.
        momentum: share of the last update that goes into the next.
        weight_decay: pull of every weight towards zero, a share of lr.
        decay_biases: whether biases are pulled towards zero, too (2012 code: they are not).
        bias_lr: learning rate of all biases, whatever lr becomes (2012 code: 0.02); null: as the
            weights'.
        lr_factors: learning rates of single layers, as multiples of lr: {fc8: 10}, {bias: 2}; or
            from epochs on: {conv1.weight: [[67, 0.1], [72, 0]]} (2012 code). `conv1.weight`
            overrides `conv1`, which overrides `weight`.
        schedule: plateau divides lr by 10 when the validation error stalls (section 5); multistep,
            after `milestones`; exponential, evenly with every epoch, by `decay` in all.
        lr_drops: plateau: how often lr drops before the next stall ends training.
        patience: plateau: epochs without a lower validation error that count as a stall.
        milestones: multistep: epochs after which lr drops (2012 code: 25, 51, 79).
        decay: exponential: the first learning rate over that after the last epoch (2012 code: 250).
        lr_at: learning rates set by hand: [[34, 0.001]] sets 0.001 after epoch 34. The schedule
            goes on from there.
    """

    lr: PositiveFloat = 0.01
    momentum: UnitFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    decay_biases: bool = True
    bias_lr: NonNegativeFloat | None = None
    lr_factors: dict[str, NonNegativeFloat | list[tuple[NonNegativeInt, NonNegativeFloat]]] = field(
        default_factory=dict
    )
    schedule: Literal["plateau", "multistep", "exponential"] = "plateau"
    lr_drops: NonNegativeInt = 3
    patience: PositiveInt = 5
    milestones: tuple[PositiveInt, ...] = (25, 51, 79)
    decay: PositiveFloat = 250.0
    lr_at: list[tuple[PositiveInt, PositiveFloat]] = field(default_factory=list)


def check(config: OptimConfig) -> None:
    """ValueError where an epoch is listed twice: one of its values would be lost."""
    lists = {"optim.milestones": list(config.milestones)}
    by_epoch = {"optim.lr_at": config.lr_at}
    by_epoch |= {f"optim.lr_factors: {key}": pairs for key, pairs in _by_epoch(config).items()}
    lists |= {option: [epoch for epoch, _ in pairs] for option, pairs in by_epoch.items()}
    for option, epochs in lists.items():
        twice = [epoch for place, epoch in enumerate(epochs) if epoch in epochs[:place]]
        if twice:
            raise ValueError(f"{option} has epoch {twice[0]} twice; expected it once")


class PaperSGD(torch.optim.SGD):
    """v <- momentum v - weight_decay lr w - lr g;  w <- w + v.

    torch keeps the buffer b = -v / lr, which is the same rule until lr changes. Rescaling b then
    keeps v, and the rule, exact. A parameter whose learning rate becomes 0 stops at once (2012
    code).

    Learning rates are tensors beside the parameters, and no tensor is ever replaced by another: a
    captured step is replayed with whatever they hold. On GPUs they are float32, as torch's fused
    update reads them there.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> None:
        """`parameters` by name, such as conv1.weight behind any prefix.

        ValueError for a factor that fits none of them.
        """
        self._config = config
        self.lr = float(config.lr)
        named = dict(parameters)
        unused = config.lr_factors.keys() - {key for name in named for key in _keys(name)}
        if unused:
            raise ValueError(
                f"optim.lr_factors: no layer is named {', '.join(sorted(unused))}; expected names "
                "such as fc8, conv1.weight, or bias"
            )
        groups: dict[Any, dict[str, Any]] = {}
        for name, parameter in named.items():
            # Parameters that are treated alike in every epoch share a group: each further group
            # costs the host as much again.
            group = groups.setdefault(_treatment(name, config), {"name": name, "params": []})
            group["params"].append(parameter)
            group["lr"] = _new_rate(parameter.device)
            group["weight_decay"] = _decay(name, config)
        super().__init__(list(groups.values()), momentum=float(config.momentum), fused=True)
        self._set(self.lr, 0)
        for parameter in named.values():
            # The fused update walks parameter and buffer side by side in memory: their layouts must
            # be the same.
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def set_lr(self, lr: float, epoch: int = 0) -> None:
        """From now on `lr`, with the factors of `epoch`; velocity is preserved."""
        before = [group["rate"] for group in self.param_groups]
        self._set(lr, epoch)
        for group, old in zip(self.param_groups, before, strict=True):
            for parameter in group["params"] if group["rate"] not in (old, 0) else ():
                self.state[parameter]["momentum_buffer"].mul_(old / group["rate"])

    def describe(self, lr: float, epoch: int) -> list[str]:
        """What set_lr would change at the end of an epoch, as sentences."""
        changes = []
        if lr != self.lr:
            why = "by hand" if epoch in dict(self._config.lr_at) else self._config.schedule
            changes.append(f"learning rate is now {lr:g} ({why})")
        factors = _lr_factors(self._config, epoch)
        if factors != _lr_factors(self._config, epoch - 1):
            listed = ", ".join(f"{name} times {value:g}" for name, value in factors.items())
            changes.append(f"learning rates of layers are now {listed}")
        return changes

    def _set(self, lr: float, epoch: int) -> None:
        self.lr = lr
        for group in self.param_groups:
            rate = _rate(group["name"], lr, epoch, self._config)
            group["lr"].fill_(rate)
            # As the device rounds it, and known without asking the device.
            group["rate"] = torch.tensor(rate, dtype=group["lr"].dtype).item()

    def momentum(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The buffers of a module's parameters by name."""
        return {
            name: self.state[parameter]["momentum_buffer"]
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def restore(
        self, module: nn.Module, buffers: dict[str, torch.Tensor], lr: float, epoch: int = 0
    ) -> None:
        """Resume from buffers that `momentum` gave, with their learning rate and epoch."""
        self._set(lr, epoch)
        for name, parameter in module.named_parameters():
            self.state[parameter]["momentum_buffer"].copy_(buffers[name])


def _new_rate(device: torch.device) -> torch.Tensor:
    """Room for a learning rate, in the precision that the fused update reads it with."""
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    return torch.zeros((), dtype=dtype, device=device)


def _rate(name: str, lr: float, epoch: int, config: OptimConfig) -> float:
    """The learning rate of the parameter `name` after `epoch` epochs."""
    base = lr if config.bias_lr is None or not _is_bias(name) else config.bias_lr
    return float(base) * _factor(name, epoch, config)


def _factor(name: str, epoch: int, config: OptimConfig) -> float:
    """What the learning rate of the parameter `name` is multiplied by after `epoch` epochs."""
    factors = _lr_factors(config, epoch)
    return next((factors[key] for key in _keys(name) if key in factors), 1.0)


def _decay(name: str, config: OptimConfig) -> float:
    return float(config.weight_decay) if config.decay_biases or not _is_bias(name) else 0.0


def _treatment(name: str, config: OptimConfig) -> tuple:
    """Equal for parameters with the same learning rate and decay in every epoch."""
    changes = {epoch for pairs in _by_epoch(config).values() for epoch, _ in pairs}
    factors = tuple(_factor(name, epoch, config) for epoch in sorted({0, *changes}))
    return _decay(name, config), _is_bias(name) and config.bias_lr is not None, factors


def _lr_factors(config: OptimConfig, epoch: int) -> dict[str, float]:
    """The factors that hold after `epoch` epochs, by the names that they are listed under."""
    begun = {
        key: [pair for pair in pairs if pair[0] <= epoch]
        for key, pairs in _by_epoch(config).items()
    }
    return {key: float(max(pairs)[1]) for key, pairs in begun.items() if pairs}


def _by_epoch(config: OptimConfig) -> dict[str, list[tuple[int, float]]]:
    """The factors as (epoch, factor); a single one holds from the beginning."""
    return {
        key: factor if isinstance(factor, list) else [(0, factor)]
        for key, factor in config.lr_factors.items()
    }


def _keys(name: str) -> tuple[str, str, str]:
    """Where a factor for a parameter may be listed, in order: conv1.weight, conv1, weight."""
    layer, kind = name.split(".")[-2:] if "." in name else ("", name)
    return f"{layer}.{kind}", layer, kind


def _is_bias(name: str) -> bool:
    return name.split(".")[-1] == "bias"


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
    """The schedule that `config` names, with what it sets by hand, for a run of `epochs`."""
    if config.schedule == "plateau":
        return ByHand(PlateauSchedule(config), config)
    return ByHand(EpochSchedule(config, epochs), config)


class ByHand:
    """A schedule whose learning rate is set by hand after some epochs: `lr_at`.

    From then on, what the schedule multiplies its own learning rate by goes for that one; it stays
    where the schedule's own was 0.
    """

    def __init__(self, schedule: Schedule, config: OptimConfig) -> None:
        self._schedule, self._lr_at = schedule, dict(config.lr_at)
        self._completed = 0
        self._set: tuple[float, float] | None = None  # by hand, and the schedule's own then

    @property
    def lr(self) -> float:
        """See Schedule."""
        if self._set is None:
            return self._schedule.lr
        by_hand, own = self._set
        return by_hand * (self._schedule.lr / own) if own else by_hand

    @property
    def finished(self) -> bool:
        """See Schedule."""
        return self._schedule.finished

    def end_epoch(self, val_error: float) -> None:
        """See Schedule."""
        self._schedule.end_epoch(val_error)
        self._completed += 1
        if self._completed in self._lr_at:
            self._set = float(self._lr_at[self._completed]), self._schedule.lr

    def state(self) -> dict[str, Any]:
        """See Schedule."""
        return {**self._schedule.state(), "completed": self._completed, "by_hand": self._set}

    def restore(self, state: dict[str, Any]) -> None:
        """See Schedule."""
        self._schedule.restore(state)
        self._completed, self._set = state["completed"], state["by_hand"]


class EpochSchedule:
    """A learning rate that depends only on the number of epochs completed."""

    def __init__(self, config: OptimConfig, epochs: int) -> None:
        self._config, self._epochs = config, epochs
        self._completed = 0

    @property
    def lr(self) -> float:
        """See Schedule."""
        if self._config.schedule == "multistep":
            return self._config.lr / 10 ** sum(
                self._completed >= epoch for epoch in self._config.milestones
            )
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
    """Divide lr by 10 when the validation error stops falling (section 5).

    After `lr_drops` such stalls, the next one ends training. The paper did this by hand: "divide
    the learning rate by 10 when the validation error rate stopped improving".
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
        return {
            "drops": self.drops,
            "best_error": self.best_error,
            "stalled_epochs": self.stalled_epochs,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.drops, self.best_error = state["drops"], state["best_error"]
        self.stalled_epochs = state["stalled_epochs"]
