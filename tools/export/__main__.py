"""Take a trained network to other programs.

    alexnet export runs/alexnet --to safetensors --out alexnet.safetensors
    alexnet export runs/alexnet --to onnx --preprocessing --out alexnet.onnx
    alexnet export runs/alexnet --to module --out alexnet.py

safetensors: the weights by plain names, with mean, classes and recipe. onnx: a graph for
onnxruntime and others. module: one readable file of PyTorch, and its weights beside it. Graph and
module are held against the original network before they are written.
"""

import argparse
import sys
from keyword import iskeyword
from pathlib import Path

import torch

from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.export import plain_alexnet
from alexnet_dali.tools.export.check import check_alike
from alexnet_dali.tools.export.plain import plain
from alexnet_dali.train.networks import Trained, open_network

_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "module": ".py"}


def main(argv: list[str]) -> None:
    """Export as the arguments say; ValueError where networks differ."""
    args = _arguments(argv)
    network = open_network(Path(args.run), torch.device("cpu"))
    out = Path(args.out)
    files, remark = _files(network, args.to, args.preprocessing, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        with atomic_write(path) as file:
            file.write(content)
    print(f"wrote {' and '.join(map(str, files))}{remark and '; '}{remark}")


def _files(
    network: Trained, form: str, preprocessing: bool, out: Path
) -> tuple[dict[Path, bytes], str]:
    """What to write, by path, and what was compared."""
    if form == "onnx":
        from alexnet_dali.tools.export.onnx_graph import answers, onnx_model

        model = onnx_model(network, preprocessing)
        return {out: model}, check_alike(network, answers(network, model, preprocessing))
    from alexnet_dali.tools.export.weights import safetensors_file

    weights = safetensors_file(network)
    if form == "safetensors":
        return {out: weights}, ""
    module = plain(network)
    with torch.no_grad():
        remark = check_alike(network, lambda squares: module(squares).softmax(1).numpy())
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
    return args


if __name__ == "__main__":
    run(main)
