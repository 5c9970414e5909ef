"""Images that can't be used any more, and others in their place."""

import warnings
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import numpy as np

from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import DatasetError


class BadImage(NamedTuple):
    """An image that a step should have shown, and what it shows in its place."""

    step: int
    number: int  # in the list
    path: str
    why: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.path} can't be used any more: {self.why}"


OnBadImage = Callable[[BadImage], None]
"""What to do when a batch with a bad image is handed out; an error ends the loop."""


def warn(bad: BadImage) -> None:
    """Go on with another image, and warn."""
    warnings.warn(f"{bad}; {bad.replacement} is used in its place", stacklevel=2)


def stop(bad: BadImage) -> NoReturn:
    """End the loop: DatasetError names the file."""
    raise DatasetError(f"{bad}; restore the file, or prepare the folder again with alexnet prep")


def replacement(
    images: ImageList, index: int, seed: int, epoch: int, usable: Callable[[int], bool]
) -> int:
    """Another image of the same class; of any class where that has no other that is usable.

    It is a function of (seed, epoch, index), and of which images are usable. DatasetError where
    none is.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, index])))
    same_class = images.labels == images.labels[index]
    for candidates in (np.flatnonzero(same_class), np.flatnonzero(~same_class)):
        for candidate in random.permutation(candidates).tolist():
            if candidate != index and usable(candidate):
                return candidate
    raise DatasetError(
        f"{images.path(index)} can't be used any more, nor can any other image of its list; "
        "restore the files, or prepare the folder again with alexnet prep"
    )
