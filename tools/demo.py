"""From image files to a trained, evaluated network in a few minutes, on any machine.

    alexnet demo                 with generated images
    alexnet demo --data DIR      with your own class folders

DIR may also hold `train` and `val`, with class folders in each. The demo prints every command that
it runs. In the end, the network names two validation images, and a report shows the run.
"""

import hashlib
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools import ROOT
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.launch import launcher


def main(argv: list[str]) -> None:
    """Make or take images, prepare them, train, evaluate, name two pictures, report.

    It trains on two ranks, or on one where there is one GPU.
    """
    parser = command_line("alexnet demo", __doc__)
    parser.add_argument("--data", metavar="DIR", help="your class folders")
    args = parser.parse_args(argv)
    for package in ("jinja2", "matplotlib"):
        import_module(package)  # the report's: without them, this ends before minutes of training
    images, name = Path(".demo/images"), "demo"
    if args.data:
        images = Path(args.data).resolve()
        # Other images may lie in a folder of the same name.
        name = f"demo-{images.name}-{hashlib.sha256(str(images).encode()).hexdigest()[:6]}"
    elif not images.exists():
        _command("make-images", images)
    prepared, folder = Path(".demo") / name, Path("runs") / name
    if not prepared.exists():
        _command("prep", *_sources(images), "--out", prepared)
    ranks = 1 if torch.cuda.device_count() == 1 else 2
    options = (ROOT / "configs/demo.yaml", "--data.root", prepared, "--run.dir", folder)
    _python(*launcher(ranks), "-m", "alexnet_dali.train", *options)
    _command("evaluate", folder, "--data", prepared)
    _command("predict", folder, *_two_pictures(prepared))
    report = folder / "report.html"
    _command("report", folder, "--data", prepared, "--out", report)
    _say_how_to_go_on(folder, report)


def _sources(images: Path) -> list[str]:
    if (images / "train").is_dir() and (images / "val").is_dir():
        return ["--train", str(images / "train"), "--val", str(images / "val")]
    return ["--train", str(images), "--hold-out", "0.1"]


def _two_pictures(prepared: Path) -> list[Path]:
    """Validation images that lie far from each other, so that their classes differ.

    Out of archives, they are copied to files of their own.
    """
    val = Dataset.open(prepared).val
    copies = prepared.with_name(f"{prepared.name}-pictures")
    paths = []
    for index in (0, len(val) // 2):
        path = Path(val.path(index))
        if val.spans is not None:
            path = copies / val.name(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(val.content(index).tobytes())
        paths.append(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return paths


def _say_how_to_go_on(folder: Path, report: Path) -> None:
    tensorboard = Path(sys.executable).parent / "tensorboard"
    predict = Path(sys.executable).parent / "alexnet predict"
    print(f"\nThe run in one page, for a browser:  {report.absolute()}")
    print(f"Classes of your own pictures:        {predict} {folder.absolute()} PICTURE")
    print(
        f"Curves, while it trains or after:    {tensorboard} --logdir {Path('runs').absolute()} "
        "--host localhost"
    )


def _command(*words: str | Path) -> None:
    print("\n$ alexnet " + shlex.join(map(str, words)), flush=True)
    _run("-m", "alexnet_dali.tools", *words)


def _python(*words: str | Path) -> None:
    print("\n$ python " + shlex.join(map(str, words)), flush=True)
    _run(*words)


def _run(*words: str | Path) -> None:
    """Run a Python command; if it fails, it has said why."""
    process = subprocess.Popen([sys.executable, *map(str, words)])
    try:
        status = process.wait()
    except KeyboardInterrupt:  # has reached the command, too, which may have to save
        status = process.wait()
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run(main)
