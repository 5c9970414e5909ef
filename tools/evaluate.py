"""Error rates of a trained network on the validation images of a prepared folder.

python -m tools.evaluate runs/alexnet --data prepared/imagenet
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":  # as a script, Python looks in tools/ and not in the project
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.alexnet import AlexNet
from pipeline.dataset import Dataset, DatasetError
from pipeline.stats import PixelStats
from tools.cli import run
from train import checkpoint
from train.config import from_dict
from train.data import evaluation_batches
from train.distributed import join
from train.evaluate import error_rates


def main(argv: list[str]) -> None:
    """Evaluate as the arguments say; ValueError where checkpoint and images do not go together."""
    args = _arguments(argv)
    path = Path(args.checkpoint)
    if path.is_dir():
        path = checkpoint.newest(path / "checkpoints") or path / "checkpoints/step-*.pt"
    state = checkpoint.load(path)
    dataset = Dataset.open(Path(args.data))
    if dataset.classes != state["classes"]:
        raise DatasetError(
            f"{dataset.folder} has {len(dataset.classes)} classes that are not the {len(state['classes'])} classes of "
            f"{path}; evaluate on images prepared with the same class folders"
        )
    config = from_dict(state["config"])
    # The network expects the mean of the images it was trained on, not of those that it is shown now.
    stats = PixelStats(**{key: value.numpy() for key, value in state["stats"].items()})
    with join(args.device) as ranks:
        model = AlexNet(config.model, len(dataset.classes), config.data.crop, ranks.columns).to(ranks.device)
        model.load_full_state(state["model"])
        batches = evaluation_batches(dataset.val, stats, config.data, ranks, args.batch_size)
        errors = error_rates(model, batches, config.data.crop, ranks.sum_over_pairs)
        if ranks.is_main:
            _report(path, state["step"], asdict(errors), args.json)


def _report(path: Path, step: int, errors: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"checkpoint": str(path), "step": step, **errors}))
        return
    print(
        f"top-1 error {errors['top1_error']:.2%}, top-5 error {errors['top5_error']:.2%} "
        f"on {errors['num_images']} images (centre crop, {path})"
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images at a time (128)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
