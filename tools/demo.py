"""From image files to a trained, evaluated network in a few minutes, on any machine.

    python -m tools.demo                 with generated images
    python -m tools.demo --data DIR      with your own class folders (or a folder that has train/ and val/ with them)

It runs the commands that one would type, and prints them.
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":  # as a script, Python looks in tools/ and not in the project
    sys.path.insert(0, str(_ROOT))

import torch  # noqa: E402

from tools.cli import run  # noqa: E402


def main(argv: list[str]) -> None:
    """Generate or take images, prepare them, train on two ranks (one where there is one GPU), evaluate."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="your class folders")
    args = parser.parse_args(argv)
    images, name = Path(".demo/images"), "demo"
    if args.data:
        images = Path(args.data).resolve()
        # Other images may lie in a folder of the same name.
        name = f"demo-{images.name}-{hashlib.sha256(str(images).encode()).hexdigest()[:6]}"
    elif not (_ROOT / images).exists():
        _command("-m tools.make_images", images)
    prepared, folder = Path(".demo") / name, Path("runs") / name
    if not (_ROOT / prepared).exists():
        _command("-m tools.prep_imagenet", *_sources(images), "--out", prepared)
    two_ranks = "" if torch.cuda.device_count() == 1 else "-m torch.distributed.run --nproc_per_node=2 "
    _command(f"{two_ranks}-m train configs/demo.yaml", "--data.root", prepared, "--run.dir", folder)
    _command("-m tools.evaluate", folder, "--data", prepared)
    print(f"\nLook at the run with:  {Path(sys.executable).parent / 'tensorboard'} --logdir {_ROOT / 'runs'}")


def _sources(images: Path) -> list[str]:
    if (_ROOT / images / "train").is_dir() and (_ROOT / images / "val").is_dir():
        return ["--train", str(images / "train"), "--val", str(images / "val")]
    return ["--train", str(images), "--hold-out", "0.1"]


def _command(start: str, *words: str | Path) -> None:
    """Print and run a Python command; where it fails it has said why."""
    command = [*start.split(), *map(str, words)]
    print("\n$ python " + shlex.join(command), flush=True)
    status = subprocess.run([sys.executable, *command], cwd=_ROOT).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run(main)
