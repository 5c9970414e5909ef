"""Print the newest checkpoint of a run, or an empty line, by the arguments of its training.

python -m alexnet_dali.tools.newest_checkpoint configs/alexnet.yaml --data.root prepared/images
"""

from pathlib import Path

from alexnet_dali.tools.cli import run
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import load


def main(argv: list[str]) -> None:
    """Print its path; ConfigError where the arguments are none of a training."""
    print(checkpoint.newest(Path(str(load(argv).run.dir)) / "checkpoints") or "")


if __name__ == "__main__":
    run(main)
