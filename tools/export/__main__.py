"""Take a trained network to other programs.

    alexnet export runs/alexnet --to safetensors --out alexnet.safetensors
    alexnet export runs/alexnet --to onnx --preprocessing --out alexnet.onnx
    alexnet export runs/alexnet --to module --out alexnet.py

safetensors: the weights by plain names, with mean, classes and recipe. onnx: a graph for
onnxruntime and others. module: one readable file of PyTorch, and its weights beside it. Graph and
module are checked against the original network before they are written. FILE.md, beside each, is a
card: how to load it, what it was trained on, how often it is wrong.
"""

import argparse
import sys
from keyword import iskeyword
from pathlib import Path

import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.export import plain_alexnet
from alexnet_dali.tools.export.card import card, name_of_card
from alexnet_dali.tools.export.check import check_alike
from alexnet_dali.tools.export.plain import OPSET, plain
from alexnet_dali.train.networks import Trained, check_classes, open_network

_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "module": ".py"}


def main(argv: list[str]) -> None:
    """Export as the arguments say; ValueError where networks differ."""
    args = _arguments(argv)
    network = open_network(Path(args.run), torch.device("cpu"))
    dataset, out = _dataset(network), Path(args.out)
    files, remark = _files(network, dataset, args)
    text = card(network, args.to, args.preprocessing, out, files, dataset)
    files[out.with_name(name_of_card(out))] = text.encode(errors="replace")
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        with atomic_write(path) as file:
            file.write(content)
    print(f"wrote {', '.join(map(str, files))}{remark and '; '}{remark}")


def _dataset(network: Trained) -> Dataset | None:
    """The images that the run's recipe names, where they are still there."""
    try:
        dataset = Dataset.open(Path(str(network.data.root)))
        check_classes(network, dataset)
    except (OSError, ValueError):
        return None
    return dataset


def _files(
    network: Trained, dataset: Dataset | None, args: argparse.Namespace
) -> tuple[dict[Path, bytes], str]:
    """What to write, by path, and what was compared."""
    out = Path(args.out)
    name = name_of_card(out)
    if args.to == "onnx":
        from alexnet_dali.tools.export.onnx_graph import answers, onnx_model

        model = onnx_model(network, args.preprocessing, args.opset, name)
        answer = answers(network, model, args.preprocessing)
        return {out: model}, check_alike(network, answer, dataset)
    from alexnet_dali.tools.export.weights import safetensors_file

    weights = safetensors_file(network, name)
    if args.to == "safetensors":
        return {out: weights}, ""
    module = plain(network)
    with torch.no_grad():
        remark = check_alike(network, lambda squares: module(squares).softmax(1).numpy(), dataset)
    source = Path(plain_alexnet.__file__).read_bytes()
    return {out.with_suffix(".safetensors"): weights, out: source}, remark


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet export", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint")
    parser.add_argument("--to", required=True, choices=list(_SUFFIXES), help="what to write")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--preprocessing",
        action="store_true",
        help="the ONNX graph reads uint8 squares, crops them, subtracts the mean, and gives "
        "probabilities",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        metavar="N",
        help=f"of the ONNX graph: {OPSET} or later ({OPSET})",
    )
    args = parser.parse_args(argv)
    if Path(args.out).suffix != _SUFFIXES[args.to]:
        raise ValueError(
            f"--out is {args.out}; expected a name that ends in {_SUFFIXES[args.to]} for "
            f"--to {args.to}"
        )
    name = Path(args.out).stem
    hides = name in sys.stdlib_module_names or name == "torch"
    if args.to == "module" and (not name.isidentifier() or iskeyword(name) or hides):
        raise ValueError(
            f"--out is {args.out}, which Python could not import, or would import in place of its "
            "own module; expected letters, digits and _, such as alexnet_2012.py"
        )
    if args.preprocessing and args.to != "onnx":
        raise ValueError("--preprocessing goes with --to onnx; the module has it in any case")
    if args.opset != OPSET and args.to != "onnx":
        raise ValueError("--opset goes with --to onnx")
    return args


if __name__ == "__main__":
    run(main)
