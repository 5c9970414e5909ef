"""The layers of Caffe's AlexNet in their order, and whether a file has them.

Caffe's models/bvlc_alexnet/train_val.prototxt has them in this order; its CaffeNet pools before it
normalises.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

CROP = 227
"""Pixels that conv1 reads. It has no padding: 227 is 11 and 54 strides of 4."""

LEARNT = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
"""What the layers with weights are called here, in their order."""


@dataclass(frozen=True)
class Step:
    """A layer, whatever its file calls it: `size` is that of pooling windows; sides in pixels."""

    kind: str
    stride: int = 1
    padding: int = 0
    size: int = 0
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        sizes = {"size": self.size, "stride": self.stride, "padding": self.padding}
        if self.kind not in ("convolution", "max pooling"):
            return self.kind
        shown = [f"{what} {pixels}" for what, pixels in sizes.items() if pixels or what != "size"]
        return f"{self.kind} ({', '.join(shown)})"


class Norm(NamedTuple):
    """x / (k + alpha * sum of squares over `size` neighbouring maps)^beta."""

    size: int
    alpha: float
    beta: float
    k: float


class Node(NamedTuple):
    """A layer in a graph: the blob that it reads, those that it gives, and what it does.

    Without a step it passes on what it reads, as dropout does when a network is tested.
    """

    reads: str
    gives: Sequence[str]
    step: Step | None


_CONV = "convolution"
_POOL = Step("max pooling", stride=2, size=3)

FORM = (
    *(Step(_CONV, stride=4), Step("relu"), Step("norm"), _POOL),
    *(Step(_CONV, padding=2), Step("relu"), Step("norm"), _POOL),
    *(Step(_CONV, padding=1), Step("relu")),
    *(Step(_CONV, padding=1), Step("relu")),
    *(Step(_CONV, padding=1), Step("relu"), _POOL),
    *(Step("fully connected"), Step("relu")),
    *(Step("fully connected"), Step("relu")),
    Step("fully connected"),
)
"""What a network computes of a crop, up to its logits."""


def in_line(nodes: Iterable[Node]) -> list[Step]:
    """The steps of a graph; ValueError unless each reads what the one before it gives."""
    steps: list[Step] = []
    passed_on: dict[str, str] = {}
    last = ""
    for reads, gives, step in nodes:
        source = passed_on.get(reads, reads)
        if step is None:
            passed_on.update(dict.fromkeys(gives, source))
            continue
        if steps and source != last:
            raise ValueError(
                f"{step.name} reads {source}, and not what {steps[-1].name} before it gives; "
                "expected one line of layers, as AlexNet has"
            )
        steps.append(step)
        last = gives[0]
        passed_on.pop(last, None)
    return steps


def check(steps: Sequence[Step]) -> None:
    """ValueError where these are not AlexNet's layers in their order."""
    for place, expected in enumerate(FORM):
        found = steps[place] if place < len(steps) else None
        if found != expected:
            raise ValueError(_differs(found, expected, steps[place - 1].name if place else ""))
    if len(steps) > len(FORM):
        raise ValueError(
            f"found {steps[len(FORM)]} ({steps[len(FORM)].name}) after the eight layers of "
            "AlexNet; expected logits of classes there"
        )


def same_norm(norms: Sequence[Norm]) -> Norm:
    """The constants of both response norms; ValueError where this project has no such norm."""
    first, second = norms
    if first != second:
        raise ValueError(f"its two response norms differ ({first} and {second}); expected one kind")
    if (first.size, first.beta) != (5, 0.75) or first.k <= 0 or first.alpha < 0:
        raise ValueError(
            f"its response norm has size {first.size}, beta {first.beta:g}, k {first.k:g}, alpha "
            f"{first.alpha:g}; expected size 5 and beta 0.75, as in section 3.3, k above 0 and "
            "alpha of 0 or more"
        )
    return first


def _differs(found: Step | None, expected: Step, before: str) -> str:
    there = f"after {before}" if before else "at first"
    named = "nothing" if found is None else f"{found} ({found.name})"
    hint = ""
    if expected.kind == "norm" and found is not None and found.kind == "max pooling":
        hint = (
            ". Pooling before response norm is CaffeNet's order, another function: take Caffe's "
            "bvlc_alexnet instead"
        )
    return f"{there} it has {named}; expected {expected}, as Caffe's AlexNet has{hint}"
