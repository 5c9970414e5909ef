"""What arguments of torch's DataLoader are called here."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

_P = ParamSpec("_P")

_HERE = {
    "batch_size": "global_batch_size, the images of all ranks together",
    "shuffle": 'split "train", which is shuffled, or "val", or an order',
    "sampler": "order",
    "num_workers": "num_threads, or nothing for a share of the cores",
    "pin_memory": 'device="cuda", which has the batches there',
    "drop_last": 'split "train", which drops a partial batch, or "val", which does not',
    "transform": "crops, pixels and augmentations",
}


def translated(init: Callable[_P, None]) -> Callable[_P, None]:
    """`init`, which answers arguments of torch's DataLoader with a TypeError that names ours."""

    @wraps(init)
    def checked(*args: _P.args, **options: _P.kwargs) -> None:
        for name in _HERE.keys() & options.keys():
            raise TypeError(f"{name} is torch's; expected {_HERE[name]} (docs/pipeline.md)")
        init(*args, **options)

    return checked
