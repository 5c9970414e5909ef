"""`torchrun --nproc_per_node=2 -m train CONFIG.yaml [--section.field value ...]`, or `python -m train ...`."""

import sys

from train.config import load
from train.distributed import join, report_error
from train.trainer import Trainer


def main(argv: list[str]) -> int:
    """Run a training; returns the exit status: 0 finished, 2 for what a person can mend, 128 + n after signal n."""
    try:
        config = load(argv)
        with join(config.run.device) as ranks:
            return Trainer(config, ranks).fit()
    except ValueError as error:
        report_error(error)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
