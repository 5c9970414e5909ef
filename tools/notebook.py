"""Pictures for a notebook: functions that give figures, which show themselves at a cell's end.

    from alexnet_dali.tools.notebook import kernels_figure

    kernels_figure("runs/alexnet")

They are those of `alexnet figures`, `show-batch` and `predict --figure`, with the same options.
"""

from alexnet_dali.tools.paper.figures import (
    codes_figure,
    curves_figure,
    kernels_figure,
    neighbors_figure,
    predictions,
)
from alexnet_dali.tools.predict.__main__ import figure as classified
from alexnet_dali.tools.show_batch import first_step, step_of, worst

__all__ = [
    "classified",
    "codes_figure",
    "curves_figure",
    "first_step",
    "kernels_figure",
    "neighbors_figure",
    "predictions",
    "step_of",
    "worst",
]
