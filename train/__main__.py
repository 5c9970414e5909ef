"""Train: `torchrun --nproc_per_node=2 -m train CONFIG.yaml [--section.field value ...]`."""

import sys

from train.check import check
from train.config import load
from train.distributed import join, report_error
from train.trainer import Trainer


def main(argv: list[str]) -> int:
    """Run a training; returns the exit status.

    0: finished. 2: a user's error. 128 + n: stopped by signal n. torchrun turns any status but 0
    into 1, and adds a report of its own below the message.
    """
    try:
        config = load(argv)
        with join(config.run.device, config.model.columns) as ranks:
            return check(config, ranks) if config.run.check else Trainer(config, ranks).fit()
    except (ValueError, OSError) as error:
        return report_error(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
