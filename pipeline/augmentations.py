"""What an augmentation of one's own is: a draw, and what the graph makes of it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode

from alexnet_dali.pipeline.draws import Draws


class Augmentation(Protocol):
    """Changes pixels in training, by numbers that are drawn for each row.

    Draws come from (seed, epoch, place), never from the graph: a run then resumes at any step, on
    any number of ranks.
    """

    @property
    def name(self) -> str:
        """The name of the graph's input, which no other input has."""
        ...

    def draw(self, draws: Draws) -> NDArray[np.float32 | np.int32]:
        """A number or a vector for each row, n of them."""
        ...

    def apply(self, pixels: DataNode, drawn: DataNode) -> DataNode:
        """RGB crops [size, size, 3] uint8 to others, inside the graph.

        `drawn` lies on the CPU: it may be an argument of any operator of `nvidia.dali.fn`. As an
        operand beside pixels of a GPU it needs `.gpu()`.
        """
        ...
