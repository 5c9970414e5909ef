"""From image files to a trained, evaluated network in a few minutes, on any machine.

    python -m tools.demo                 with generated images
    python -m tools.demo --data DIR      with your own class folders

DIR may also hold `train` and `val`, with class folders in each. The demo prints every command that
it runs.
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from tools import ROOT
from tools.cli import run
from tools.launch import launcher


def main(argv: list[str]) -> None:
    """Make or take images, prepare them, train, evaluate.

    It trains on two ranks, or on one where there is one GPU.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="DIR", help="your class folders")
    args = parser.parse_args(argv)
    images, name = Path(".demo/images"), "demo"
    if args.data:
        images = Path(args.data).resolve()
        # Other images may lie in a folder of the same name.
        name = f"demo-{images.name}-{hashlib.sha256(str(images).encode()).hexdigest()[:6]}"
    elif not (ROOT / images).exists():
        _command("-m", "tools.make_images", images)
    prepared, folder = Path(".demo") / name, Path("runs") / name
    if not (ROOT / prepared).exists():
        _command("-m", "tools.prep_imagenet", *_sources(images), "--out", prepared)
    start = [*launcher(1 if torch.cuda.device_count() == 1 else 2), "-m", "train"]
    _command(*start, "configs/demo.yaml", "--data.root", prepared, "--run.dir", folder)
    _command("-m", "tools.evaluate", folder, "--data", prepared)
    print(
        f"\nLook at the run with:  {Path(sys.executable).parent / 'tensorboard'} --logdir "
        f"{ROOT / 'runs'}"
    )


def _sources(images: Path) -> list[str]:
    if (ROOT / images / "train").is_dir() and (ROOT / images / "val").is_dir():
        return ["--train", str(images / "train"), "--val", str(images / "val")]
    return ["--train", str(images), "--hold-out", "0.1"]


def _command(*words: str | Path) -> None:
    """Print and run a Python command; if it fails, it has said why."""
    command = list(map(str, words))
    print("\n$ python " + shlex.join(command), flush=True)
    status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run(main)
