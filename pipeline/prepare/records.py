"""What files turned out to be: a row of numbers for each, and words for few of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("size", np.int32, 2),  # height and width, of the stored image where there is a store
        ("stamp", np.int64, 2),  # size and time of the original; -1 where it is no file of its own
        ("length", np.int64),  # bytes of the file that training reads; -1 inside an archive
        ("shard", np.int64),  # the stored image's shard, its offset and its bytes there
        ("span", np.int64, 2),
    ]
)
"""Of a file that can't be used, all but the stamp are 0."""


class Findings(NamedTuple):
    """Of consecutive files: `rows` [n] of ROW, and `remarks` by place among them.

    A remark says why a file can't be used, or what was odd about one that was converted.
    """

    rows: NDArray[np.void]
    remarks: dict[int, str]

    @classmethod
    def none(cls, count: int) -> "Findings":
        """Of `count` files nothing yet."""
        return cls(np.zeros(count, ROW), {})

    def usable(self) -> NDArray[np.bool_]:
        """[n]: which of the files can be used."""
        return self.rows["size"][:, 0] > 0

    def reasons(self) -> dict[int, str]:
        """Why files can't be used, by place, in order."""
        return self._remarks_where(~self.usable())

    def oddities(self) -> dict[int, str]:
        """What was odd about converted files, by place, in order."""
        return self._remarks_where(self.usable())

    def followed_by(self, later: "Findings") -> "Findings":
        """These and those of the files that follow."""
        behind = {len(self.rows) + place: remark for place, remark in later.remarks.items()}
        return Findings(np.concatenate([self.rows, later.rows]), self.remarks | behind)

    def in_order(self, order: NDArray[np.int64]) -> "Findings":
        """The same of files that were found in `order`, in the order of their indices."""
        rows = np.empty_like(self.rows)
        rows[order] = self.rows
        return Findings(rows, {int(order[place]): why for place, why in self.remarks.items()})

    def _remarks_where(self, chosen: NDArray[np.bool_]) -> dict[int, str]:
        return {place: remark for place, remark in sorted(self.remarks.items()) if chosen[place]}
