"""What a fault is, and what comes of trying it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from alexnet_dali.tools.faults.runs import Bench


class Outcome(NamedTuple):
    """Of one trial: what was lost, `nothing` if all is as it should be, and what was seen."""

    lost: str
    saw: str


class Fault(NamedTuple):
    """A kind of fault: its name, how to try it, and how often."""

    name: str
    trials: Callable[[Bench, int], Iterator[Outcome]]
    times: int
