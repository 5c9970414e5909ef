"""Two collectives under the names of torch 2.13.

Before, torch knew them by other names, of which it now warns.
"""

from typing import Any

import torch.distributed as dist


def _named(new: str, old: str) -> Any:
    return getattr(dist, new if hasattr(dist, new) else old)


all_gather_single = _named("all_gather_single", "all_gather_into_tensor")
"""(all, own, group, async_op): all ranks' tensors, one after the other along dim 0."""

reduce_scatter_single = _named("reduce_scatter_single", "reduce_scatter_tensor")
"""(own, all, group): the sum over the ranks of this rank's part of `all`."""
