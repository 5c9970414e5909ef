"""What the training loop takes of a rank's main thread, beside the step itself.

    python -m alexnet_dali.tools.bench.loop --data prepared/imagenet
    torchrun --nproc_per_node=2 -m alexnet_dali.tools.bench.loop --data prepared/imagenet

A sleep stands for each step, and one batch for all: what is left are notes of what the rank does,
the stopwatch, meetings, and lines. Evaluations and checkpoints are left out. Each rank prints a
line of JSON. With --step-ms 0, the processor's caches stay warm, and lines are those of more steps.
"""

import itertools
import json
import sys
import tempfile
import time
from typing import Any

from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.train.config import load
from alexnet_dali.train.parallel.ranks import Ranks, join
from alexnet_dali.train.trainer import Trainer

_RECIPE = ROOT / "configs/small.yaml"
_WARM_UP = 50


def main(argv: list[str]) -> None:
    """Measure the loop on this rank, and print it."""
    parser = command_line("python -m alexnet_dali.tools.bench.loop", __doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument("--steps", type=int, default=4000, metavar="N", help="steps (4000)")
    parser.add_argument(
        "--step-ms", type=float, default=5.0, metavar="MS", help="how long a step takes (5)"
    )
    args = parser.parse_args(argv)
    with join("cpu") as ranks:
        measured = measure(args.data, ranks, args.steps, args.step_ms / 1000)
    print(json.dumps({"rank": ranks.rank, **measured}) + "\n", end="", flush=True)


def measure(data: str, ranks: Ranks, num_steps: int, step_seconds: float) -> dict[str, float]:
    """Microseconds of a turn of the loop: of the main thread's processor time, and as it passes.

    Every rank must call it.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data.root", data, "--run.dir", folder, "--run.pictures", "false"]
        trainer: Any = Trainer(load([str(_RECIPE), *options, "--train.batch_size", "4"]), ranks)
        batch = next(trainer.batches())
        steps = _Steps(trainer, step_seconds)
        trainer.batches = lambda: itertools.repeat(batch, _WARM_UP + num_steps)
        trainer.train_step = steps.take
        trainer.save = trainer._end_epoch = lambda: None
        trainer._is_shown = lambda step: False
        trainer._introduce = trainer._say_goodbye = lambda *words: None
        trainer.plan = trainer.plan._replace(steps_per_epoch=sys.maxsize)  # an epoch never ends
        trainer.fit()
    return {
        "main_thread_us": 1e6 * steps.cpu / num_steps,
        "passing_us": 1e6 * steps.passed / num_steps,
    }


class _Steps:
    """Steps that sleep, and the time between them."""

    def __init__(self, trainer: Any, seconds: float) -> None:
        self._trainer, self._seconds = trainer, seconds
        self.cpu = self.passed = 0.0
        self._began = 0.0, 0.0

    def take(self, batch: Batch) -> None:
        """Stand in for Trainer.train_step."""
        trainer = self._trainer
        for doing in ("forward", "backward", "update"):
            with trainer._at(doing):
                pass
        trainer.state.step += 1
        trainer._has_stepped = True
        if trainer.state.step > _WARM_UP + 1:
            self.cpu += time.thread_time() - self._began[0]
            self.passed += time.perf_counter() - self._began[1]
        time.sleep(self._seconds)
        trainer.state.sums += 1.0
        self._began = time.thread_time(), time.perf_counter()


if __name__ == "__main__":
    run(main)
