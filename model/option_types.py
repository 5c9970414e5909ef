"""Types of options: numbers within bounds, for those who read configs."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple


class Rule(NamedTuple):
    """What the values of a type must fit, and how to say so."""

    fits: Callable[[Any], bool]
    expected: str


PositiveInt = Annotated[int, Rule(lambda number: number > 0, "a whole number from 1 on")]
NonNegativeInt = Annotated[int, Rule(lambda number: number >= 0, "a whole number from 0 on")]
PositiveFloat = Annotated[float, Rule(lambda number: number > 0, "a number above 0")]
NonNegativeFloat = Annotated[float, Rule(lambda number: number >= 0, "a number of 0 or more")]
UnitFloat = Annotated[float, Rule(lambda number: 0 <= number <= 1, "a number from 0 to 1")]
PathName = Annotated[
    str, Rule(lambda path: not path.startswith("~") and "\0" not in path, "a path")
]
"""A file or folder; a reader has put the home folder in the place of `~`."""
