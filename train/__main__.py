"""Train: `torchrun --nproc_per_node=2 -m alexnet_dali.train CONFIG.yaml [--section.field value ...]`."""

import sys
from pathlib import Path

from alexnet_dali.pipeline import starting
from alexnet_dali.train.config import load
from alexnet_dali.train.dry_run import check
from alexnet_dali.train.parallel.ranks import end_job, join, report_error
from alexnet_dali.train.parallel.watchdog import watching
from alexnet_dali.train.trainer import Trainer


def main(argv: list[str]) -> int:
    """Run a training; returns the exit status.

    0: finished. 2: a user's error. 128 + n: stopped by signal n. torchrun turns any status but 0
    into 1, and adds a report of its own below the message.
    """
    starting.done()
    try:
        config = load(argv)
        folder, seconds = Path(str(config.run.dir)), config.run.watchdog_seconds
        with (
            join(config.run.device, config.model.columns) as ranks,
            watching(ranks, folder, seconds) as progress,
        ):
            if config.run.dry_run:
                return check(config, ranks)
            status = Trainer(config, ranks, progress).fit()
        if status:
            end_job()  # who has sent the signal wants no other start
        return status
    except (ValueError, OSError) as error:
        return report_error(error)
    except KeyboardInterrupt:  # before the first step
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
