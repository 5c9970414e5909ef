"""Error rates of trained networks on the validation images of a prepared folder.

    alexnet evaluate runs/alexnet --data prepared/imagenet --views 10
    alexnet evaluate runs/first runs/second --data prepared/imagenet --weights search
    torchrun --nproc_per_node=8 -m alexnet_dali.tools.evaluate runs/alexnet --data prepared/imagenet

Several checkpoints form an ensemble: the mean of their probabilities. With `--weights search`, the
mean is weighted. Weights are searched on every other image of each class and judged on the rest.
Under torchrun the ranks share the images.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools.cli import command_line, for_programs, run
from alexnet_dali.tools.tables import records
from alexnet_dali.train.evaluation import ErrorRates, halves, mixture, rates, search_weights
from alexnet_dali.train.networks import Trained, open_dataset, open_network, predict
from alexnet_dali.train.parallel.ranks import join


def main(argv: list[str]) -> None:
    """Evaluate as the arguments say; ValueError where checkpoints and images do not go together."""
    args = _arguments(argv)
    paths = [Path(name) for name in args.checkpoints]
    with join(args.device, num_columns=1) as ranks:
        networks = [open_network(path, ranks.device) for path in paths]
        dataset = open_dataset(args.data, networks[0])
        results = [
            predict(network, dataset, ranks, args.views, args.batch_size) for network in networks
        ]
        if not ranks.is_main:
            return
    scores, labels = np.stack([scores for scores, _ in results]), results[0][1]
    report = _report(networks, scores, labels, args)
    report["per_class"] = per_class(report.pop("scores"), report.pop("labels"), dataset)
    if args.save:
        with atomic_write(Path(args.save)) as file:
            np.savez(file, probabilities=scores, labels=labels, classes=np.array(dataset.classes))
    if args.json:
        print(json.dumps(report), file=for_programs())
    else:
        _print(report, args.per_class)


def _report(
    networks: list[Trained],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Error rates of each network, and of all together.

    Searched weights are judged on the images that were kept apart.
    """
    weights = np.full(len(networks), 1 / len(networks))
    if args.weights == "search":
        searched_on, judged_on = halves(labels)
        weights = search_weights(scores[:, searched_on], labels[searched_on])
        if not judged_on.any():
            raise ValueError(
                "--weights search keeps every other image of a class apart; each has one only: "
                "use mean"
            )
        print(f"weights are judged on {judged_on.sum()} of {len(labels)} images", file=sys.stderr)
        scores, labels = scores[:, judged_on], labels[judged_on]
    single = [rates(one, labels) for one in scores]
    together = mixture(scores, weights)
    report: dict[str, Any] = {"views": args.views, **asdict(rates(together, labels))}
    report["networks"] = [
        {
            "checkpoint": str(network.path),
            "step": network.step,
            "weight": float(weight),
            **asdict(errors),
        }
        for network, weight, errors in zip(networks, weights, single, strict=True)
    ]
    report["mean_top1_error"] = float(np.mean([errors.top1_error for errors in single]))
    report["equal_weights_top1_error"] = rates(scores.mean(0), labels).top1_error
    return report | {"scores": together, "labels": labels}


def per_class(
    scores: NDArray[np.float64], labels: NDArray[np.int64], dataset: Dataset
) -> list[dict[str, Any]]:
    """Error rates of each class that has images, in the order of the classes."""
    return [
        {
            "class": dataset.classes[label],
            **({"name": dataset.names[label]} if dataset.names != dataset.classes else {}),
            **asdict(rates(scores[labels == label], labels[labels == label])),
        }
        for label in np.unique(labels)
    ]


def interval(errors: ErrorRates) -> tuple[float, float]:
    """The 95 % interval of the top-1 error (Wilson's)."""
    wrong = round(errors.top1_error * errors.num_images)
    found = binomtest(wrong, errors.num_images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _print(report: dict[str, Any], per_class: bool) -> None:
    views = "ten views" if report["views"] == 10 else "centre crop"
    networks = report["networks"]
    for network in networks[: len(networks) if len(networks) > 1 else 0]:
        print(
            f"{network['top1_error']:.2%} top-1, weight {network['weight']:.3f}: "
            f"{network['checkpoint']}"
        )
    if len(networks) > 1:
        print(
            f"mean of {len(networks)} single networks: top-1 error "
            f"{report['mean_top1_error']:.2%}; with equal weights together: "
            f"{report['equal_weights_top1_error']:.2%}"
        )
    which = (
        networks[0]["checkpoint"] if len(networks) == 1 else f"{len(networks)} networks together"
    )
    print(
        f"top-1 error {report['top1_error']:.2%}, top-5 error {report['top5_error']:.2%} "
        f"on {report['num_images']} images ({views}, {which})"
    )
    if per_class:
        print(records(report["per_class"], ".4f"))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet evaluate", __doc__)
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="or a run's folder, for its newest one"
    )
    parser.add_argument("--data", metavar="DIR", help="prepared folder (that of the first run)")
    parser.add_argument(
        "--views", type=int, choices=[1, 10], default=1, help="the centre, or ten averaged (1)"
    )
    parser.add_argument(
        "--weights", choices=["mean", "search"], default="mean", help="of an ensemble (mean)"
    )
    parser.add_argument("--per-class", action="store_true", help="print a table of all classes")
    parser.add_argument(
        "--save", metavar="FILE.npz", help="write each network's probabilities, and the labels"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=128,
        metavar="N",
        help="images at a time on each rank (128)",
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}; expected 1 or more")
    if args.weights == "search" and len(args.checkpoints) < 2:
        raise ValueError(
            "--weights search weighs networks against each other; expected two checkpoints or more"
        )
    if args.save:
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    run(main)
