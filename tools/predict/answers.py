"""What a network says of pictures, as a table, as JSON and as CSV."""

import csv
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from alexnet_dali.pipeline.messages import one_line, short
from alexnet_dali.pipeline.prepare.pictures import Picture
from alexnet_dali.tools import tables
from alexnet_dali.train.networks import Trained

NUM_GUESSES = 5


class Answer(NamedTuple):
    """The likeliest classes of one picture, likeliest first, and their probabilities.

    `square` [resize, resize, 3] is the central square, from which the network's views are cut, if
    it was asked for.
    """

    path: str
    label: int | None  # the class that its folder is named as
    classes: list[int]
    probabilities: list[float]
    square: NDArray[np.uint8] | None = None

    @classmethod
    def of(
        cls, picture: Picture, scores: NDArray[np.float64], square: NDArray[np.uint8] | None
    ) -> Self:
        """The answer from the probabilities [C] of all classes."""
        best = np.argsort(-scores, kind="stable")[:NUM_GUESSES]
        return cls(picture.path, picture.label, best.tolist(), scores[best].tolist(), square)

    @property
    def is_right(self) -> bool:
        """Whether the likeliest class is that of the folder."""
        return self.classes[0] == self.label


def class_texts(network: Trained) -> list[str]:
    """For each class `goldfish (n01443537)`, or only its folder where it has no other name."""
    pairs = zip(short(network.names), short(network.classes), strict=True)
    return [name if name == folder else f"{name} ({folder})" for name, folder in pairs]


def table(network: Trained, answers: Sequence[Answer]) -> str:
    """A line for each guess, and a last one of how many are right, where folders tell."""
    texts = class_texts(network)
    rows = []
    for answer in answers:
        label = "" if answer.label is None else texts[answer.label]
        for number, (guess, probability) in enumerate(zip(answer.classes, answer.probabilities)):
            first = [one_line(answer.path), label] if number == 0 else ["", ""]
            rows.append([first[0], f"{probability:.2%}", texts[guess], first[1]])
    labelled = [answer for answer in answers if answer.label is not None]
    headers = ["picture", "probability", "class", "its folder's class"]
    columns = len(headers) if labelled else len(headers) - 1
    text = tables.plain([row[:columns] for row in rows], headers[:columns], right={1})
    if not labelled:
        return text
    right = sum(answer.is_right for answer in labelled)
    among = sum(answer.label in answer.classes for answer in labelled)
    return (
        f"{text}\n\npictures in a class's folder: {len(labelled)}; right at the first guess: "
        f"{right}; among the {len(answers[0].classes)}: {among}"
    )


def report(network: Trained, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The same for JSON; probabilities are in [0, 1]."""
    return [
        {
            "path": answer.path,
            "label": None if answer.label is None else network.classes[answer.label],
            "guesses": [
                {
                    "class": network.classes[guess],
                    "name": network.names[guess],
                    "probability": probability,
                }
                for guess, probability in zip(answer.classes, answer.probabilities)
            ],
        }
        for answer in answers
    ]


def write_csv(network: Trained, answers: Sequence[Answer], file: TextIO) -> None:
    """A line for each guess; `label` is the folder's class, or empty."""
    writer = csv.writer(file)
    writer.writerow(["picture", "label", "rank", "class", "name", "probability"])
    for answer in answers:
        label = "" if answer.label is None else network.classes[answer.label]
        for number, (guess, probability) in enumerate(zip(answer.classes, answer.probabilities)):
            class_and_name = network.classes[guess], network.names[guess]
            writer.writerow([answer.path, label, number + 1, *class_and_name, probability])
