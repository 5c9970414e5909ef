"""From image files to a trained, evaluated network in a few minutes, on any machine.

    python -m tools.demo                 with generated images
    python -m tools.demo --data DIR      with your own class folders (or a folder that has train/ and val/ with them)

It runs the commands that one would type, and prints them.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from tools.cli import run

_WORK = Path(".demo")


def main(argv: list[str]) -> None:
    """Generate or take images, prepare them, train on two ranks, evaluate."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="Train on generated or your own images.")
    parser.add_argument("--data", metavar="DIR", help="your class folders")
    args = parser.parse_args(argv)
    images = Path(args.data) if args.data else _WORK / "images"
    name = images.resolve().name if args.data else "demo"
    prepared = _WORK / f"prepared-{name}"
    if not args.data and not images.exists():
        _command("-m tools.make_images", images)
    if not prepared.exists():
        _command("-m tools.prep_imagenet", *_sources(images), "--out", prepared)
    folder = Path("runs") / name
    torchrun = "-m torch.distributed.run --nproc_per_node=2"
    _command(f"{torchrun} -m train configs/demo.yaml", "--data.root", prepared, "--run.dir", folder)
    _command("-m tools.evaluate", folder, "--data", prepared)
    print(f"\nLook at the run with:  {Path(sys.executable).parent / 'tensorboard'} --logdir runs")


def _sources(images: Path) -> list[str]:
    if (images / "train").is_dir() and (images / "val").is_dir():
        return ["--train", str(images / "train"), "--val", str(images / "val")]
    return ["--train", str(images), "--hold-out", "0.1"]


def _command(start: str, *words: str | Path) -> None:
    """Print and run a Python command; where it fails it has said why."""
    command = [*start.split(), *map(str, words)]
    print("\n$ python " + shlex.join(command), flush=True)
    status = subprocess.run([sys.executable, *command]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run(main)
