"""Make a run of weights that others have trained, of the paper's form.

    alexnet import-weights bvlc_alexnet.caffemodel --out runs/caffe --data prepared/imagenet
    alexnet predict runs/caffe picture.jpg

It reads Caffe's bvlc_alexnet (.caffemodel), the ONNX zoo's bvlcalexnet (.onnx), MatConvNet's
imagenet-caffe-alex (.mat), Toronto's bvlc_alexnet (.npy), and what alexnet export --to safetensors
has written. predict, evaluate, figures kernels, export and train.init_from take the run.
"""

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.cli import command_line, run
from alexnet_dali.tools.import_weights.caffe import read_mean
from alexnet_dali.tools.import_weights.doubts import doubts
from alexnet_dali.tools.import_weights.pickled import THEANOS
from alexnet_dali.tools.import_weights.published import CAFFES_MEAN, Imported, Published, as_ours
from alexnet_dali.tools.import_weights.run import stats_of, write

_READERS = {
    ".caffemodel": "caffe",
    ".onnx": "onnx_file",
    ".mat": "matconvnet",
    ".npy": "pickled",
    ".safetensors": "exported",
}
"""The file here that reads each kind; two of them need an extra."""

_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError)
"""What the readers' libraries raise for a file whose parts do not go together."""


def main(argv: list[str]) -> None:
    """Import as the arguments say; ValueError where the file is of another network."""
    args = _arguments(argv)
    path, out = Path(args.file), Path(args.out)
    found = _named(_read(path), args.data, path)
    mean, whose = _mean(found, args.mean)
    for remark in (*found.remarks, *doubts(found.weights)):
        print(f"warning: {path}: {remark}", file=sys.stderr)
    data = found.config.data
    write(out, found, stats_of(mean, data.crop, data.resize), path)
    colour = ", ".join(f"{level:.1f}" for level in mean.reshape(-1, 3).mean(0))
    classes = "numbers; --data DIR names them" if _are_numbers(found) else "named"
    print(
        f"wrote {out}: {len(found.classes)} classes ({classes}); crops of {data.crop} pixels; "
        f"mean colour {colour} ({whose})"
    )


def _read(path: Path) -> Imported:
    """The network of a file, in float32; ValueError, which names the file, where there is none."""
    if any(path.glob("W_0_*.npy")):
        raise ValueError(f"{path}: {THEANOS}")
    with open(path, "rb"):  # a folder, or no such file: the system says it best
        pass
    if path.suffix not in _READERS:
        *others, last = _READERS
        raise ValueError(
            f"{path}: its name ends in {path.suffix or 'no suffix'}; expected one in "
            f"{', '.join(others)} or {last}"
        )
    reader = import_module(f"alexnet_dali.tools.import_weights.{_READERS[path.suffix]}")
    try:
        with np.errstate(all="ignore"):  # what is not finite, `doubts` says
            found = reader.read(path)
            found = as_ours(found) if isinstance(found, Published) else found
            rounded = {
                name: np.ascontiguousarray(own, np.float32) for name, own in found.weights.items()
            }
    except _DAMAGED as error:
        raise ValueError(f"{path}: its parts do not go together ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(found, weights=rounded)


def _named(found: Imported, data: str | None, path: Path) -> Imported:
    """With the classes of the prepared folder, else the file's own, else numbers.

    ValueError where their count, or those of folder and file, differ.
    """
    count = len(found.weights["fc8.bias"])
    if data is not None:
        dataset = Dataset.open(Path(data))
        if found.classes not in ([], dataset.classes):
            raise ValueError(
                f"{path} names other classes than {data}, or in another order (first: "
                f"{found.classes[0]}, {dataset.classes[0]}); leave --data out"
            )
        config = replace(found.config, data=replace(found.config.data, root=str(dataset.folder)))
        found = replace(found, config=config, classes=dataset.classes, names=dataset.names)
    elif not found.classes:
        numbers = [str(number) for number in range(count)]
        found = replace(found, classes=numbers, names=numbers)
    if not len(found.classes) == len(found.names) == count:
        raise ValueError(
            f"{path} tells {count} classes apart, but {data or 'it'} names {len(found.classes)}; "
            "expected a name for each"
        )
    return found


def _are_numbers(found: Imported) -> bool:
    return found.classes == [str(number) for number in range(len(found.classes))]


def _mean(found: Imported, file: str | None) -> tuple[np.ndarray, str]:
    """The mean to subtract, and whose it is."""
    if file is None:
        return (
            (np.array(CAFFES_MEAN), "Caffe's, of ImageNet")
            if found.mean is None
            else (found.mean, "the file's")
        )
    if found.mean is not None:
        raise ValueError("the file has a mean of its own; leave --mean out")
    try:
        return read_mean(Path(file)), f"of {file}"
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: {error}") from error


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_line("alexnet import-weights", __doc__)
    parser.add_argument("file", metavar="FILE", help="the weights")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run's folder, to make")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="prepared images whose classes these are, in the order of their folders: Caffe's is "
        "that of ImageNet's",
    )
    parser.add_argument(
        "--mean",
        metavar="FILE",
        help="Caffe's mean image, imagenet_mean.binaryproto or ilsvrc_2012_mean.npy; else that of "
        "the weights' file, or Caffe's mean colour",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
