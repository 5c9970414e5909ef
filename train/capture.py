"""A training step as a CUDA graph: recorded once, then replayed as a whole.

A replay launches the recorded kernels on the recorded addresses, and runs no Python. So whatever
changes from step to step lies in tensors that stay where they are: weights, momentum, sums, the
keys of the dropout masks, the learning rates, and a copy of the batch. The host writes keys, rates
and batch before a replay, in the order of the GPU's queue, and waits for nothing.

Gradients are made anew in every step. In a recorded one they lie in the graph's own memory, which
each replay fills again, and which nothing else is given. The averages over pairs and the gathers of
columns are part of the graph. NCCL's own timeouts do not watch what is replayed; the watchdog does.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn

from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.system.faults import gist

_WARM_UP = 3
"""Steps that are not recorded. In them, libraries choose kernels and take their memory."""

READY = _WARM_UP + 2
"""Steps of a run after which all are replayed: beside the warm-up, the first one, whose layers are
watched, and the one that is recorded."""


class Recorder(Protocol):
    """What a step is recorded with."""

    def aside(self, work: Callable[[], None]) -> None:
        """Do `work` where it will be recorded."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What replays `work`, which is recorded without being done."""
        ...


class CudaGraph:
    """Records on a stream of its own, as CUDA wants it."""

    def __init__(self, device: torch.device) -> None:
        """ValueError where `device` is no GPU."""
        if device.type != "cuda":
            raise ValueError(
                "train.cuda_graph is true, and the run is on a CPU; only GPUs have CUDA graphs: "
                "expected false, or a GPU (run.device)"
            )
        self._stream = torch.cuda.Stream(device)

    def aside(self, work: Callable[[], None]) -> None:
        """See Recorder."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, DALI's and NCCL's, go on with calls that a recording one must not make.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            if "captur" not in str(error):
                raise
            raise ValueError(
                f"the step can't be captured as a CUDA graph ({gist(error)}); leave out "
                "train.cuda_graph, in another --run.dir"
            ) from error
        return graph.replay


class CapturedStep:
    """Takes steps: the first few aside, as they are, and all others as replays of one."""

    def __init__(self, parameters: Iterable[nn.Parameter], recorder: Recorder) -> None:
        """`parameters` are those whose gradients a step computes anew."""
        self._parameters, self._recorder = list(parameters), recorder
        self._warm_ups = 0
        self._replay: Callable[[], None] | None = None

    def take(self, step: Callable[[Batch], None], batch: Batch) -> None:
        """Take a step, always the same one; batches have one shape.

        Between two calls, `step` may also be called as it is.
        """
        if self._warm_ups < _WARM_UP:
            self._recorder.aside(lambda: step(batch))
            self._warm_ups += 1
            return
        if self._replay is None:
            self._batch = Batch(*(part.clone() for part in batch))
            self._replay = self._recorder.record(lambda: step(self._batch))
            self._gradients = [parameter.grad for parameter in self._parameters]
        for own, part in zip(self._batch, batch, strict=True):
            own.copy_(part)
        self._replay()
        # Whoever looks at gradients is to see these, not those of a step that was no replay.
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
