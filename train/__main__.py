"""Train: `torchrun --nproc_per_node=2 -m alexnet_dali.train CONFIG.yaml [--field value ...]`."""

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexnet_dali.pipeline.system.surroundings import open_streams, read_names_as_utf8
from alexnet_dali.train import dry_run
from alexnet_dali.train.checkpoints.checkpoint import how_to_resume
from alexnet_dali.train.config import Config, load
from alexnet_dali.train.parallel.ranks import end_job, join, report_error
from alexnet_dali.train.parallel.watchdog import watching
from alexnet_dali.train.trainer import Trainer


def main(argv: list[str]) -> int:
    """Run a training; returns the exit status.

    0: finished. 2: a user's error. 128 + n: stopped by signal n. torchrun turns any status but 0
    into 1, and adds a report of its own below the message.
    """
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config = load(argv)
        folder = Path(str(config.run.dir))
        resume = partial(how_to_resume, folder / "checkpoints")
        with (
            join(config.run.device, config.model.columns) as ranks,
            watching(ranks, resume, config.run.watchdog_seconds) as progress,
        ):
            if config.run.dry_run:
                return dry_run.check(lambda other: Trainer(_in(other, config), ranks), folder)
            status = Trainer(config, ranks, progress.at).fit()
        if status:
            end_job()  # who has sent the signal wants no other start
        return status
    except (ValueError, OSError) as error:
        return report_error(error)
    except KeyboardInterrupt:  # before the first step
        return 130


def _in(folder: str, config: Config) -> Config:
    """The run in another folder, where no profile is made."""
    return replace(config, run=replace(config.run, dir=folder, profile=0))


if __name__ == "__main__":
    read_names_as_utf8()
    sys.exit(main(sys.argv[1:]))
