"""What ranks send each other in every step: halves of a batch, and gradients."""

from collections.abc import Iterable, Iterator

import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function

from alexnet_dali.model import collectives
from alexnet_dali.model.columns import NUM_COLUMNS
from alexnet_dali.pipeline.feeder import Batch


def exchange(batches: Iterable[Batch], group: dist.ProcessGroup | None) -> Iterator[Batch]:
    """Both columns' shards of each batch, from own shards; `group` is the pair, None where alone.

    Each is sent while the batch before it is computed.
    """
    if group is None:
        yield from batches
        return
    previous = None
    for batch in batches:
        current = _Exchange(batch, group)
        if previous is not None:
            yield previous.wait()
        previous = current
    if previous is not None:
        yield previous.wait()


class _Exchange:
    """An all-gather that has begun; it keeps alive what is being sent."""

    def __init__(self, batch: Batch, group: dist.ProcessGroup | None) -> None:
        self._sent = batch
        self._received = Batch(
            *(part.new_empty(NUM_COLUMNS * len(part), *part.shape[1:]) for part in batch)
        )
        with record_function("exchange: send ahead"):
            self._works = [
                collectives.all_gather_single(both, own, group=group, async_op=True)
                for both, own in zip(self._received, batch, strict=True)
            ]

    def wait(self) -> Batch:
        with record_function("exchange: wait"):
            for work in self._works:
                work.wait()
        return self._received


class GradientAllReduce:
    """Averages each gradient of `model` over the pairs, `group`, as soon as backward has it.

    Each gradient is summed by itself, in an order that depends on its shape alone.
    DistributedDataParallel puts gradients into buckets, and into other buckets in its first step
    than later. From three pairs on, an interrupted run would then not compute the bits of a run in
    one.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None) -> None:
        self._group, self._works = group, list[dist.Work]()
        if group is not None:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(self._begin)

    def _begin(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        with record_function("gradient averaging"):
            parameter.grad /= dist.get_world_size(self._group)
            # Flat, in the order of memory, whatever its layout.
            in_memory = parameter.grad.as_strided((parameter.grad.numel(),), (1,))
            self._works.append(dist.all_reduce(in_memory, group=self._group, async_op=True))

    def wait(self) -> None:
        """To call after backward: what follows on the device comes after all averages."""
        for work in self._works:
            work.wait()
        self._works.clear()
