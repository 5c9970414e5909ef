"""The card beside an exported network: for somebody who has the file and does not know the project.

It says how to load the file, what it expects of pictures, how often it is wrong, what it was
trained on and how, and where that is not the paper's way.
"""

import hashlib
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import one_line
from alexnet_dali.tools.evaluate import interval
from alexnet_dali.tools.export.loading import code
from alexnet_dali.tools.export.plain import recipe
from alexnet_dali.tools.tables import markdown
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.content import IMPORTED
from alexnet_dali.train.checkpoints.run_folder import changed_options
from alexnet_dali.train.config import Config, from_dict
from alexnet_dali.train.evaluation import ErrorRates
from alexnet_dali.train.networks import Trained, judge
from alexnet_dali.train.parallel.ranks import join

_IMAGENET = re.compile(r"n\d{8}")
_MOST_NAMES = 20
_LEFT_OUT = ("train.compile", "train.cuda_graph", "data.decoder", "train.init_from")
"""No deviations: three change how numbers are rounded, and one is a path."""

_IMAGENETS_TERMS = (
    "Its classes are named as ImageNet's are. ImageNet's images may be used for non-commercial "
    "research and education only ([terms](https://image-net.org/download.php)); keep to that "
    "with this network, too."
)
_UNKNOWN_TERMS = (
    "The terms of these images are not recorded. **Before you pass this network on, write them "
    "here.**"
)


def name_of_card(out: Path) -> str:
    """The card's file, beside that of the export."""
    return f"{out.name}.md"


def card(
    network: Trained,
    form: str,
    preprocessing: bool,
    out: Path,
    files: Mapping[Path, bytes],
    dataset: Dataset | None,
) -> str:
    """Markdown for an export of `form` to `out`, which is these `files`.

    The error is measured on the validation images of `dataset`, where there is one.
    """
    config = from_dict(network.recipe)
    trained_on = checkpoint.load(network.path)["dataset"]
    sums = [[f"`{path.name}`", hashlib.sha256(data).hexdigest()] for path, data in files.items()]
    sections = {
        "Files": markdown(sums, ["file", "SHA-256"]) + _LICENCE.get(form, ""),
        "Load it": code(form, preprocessing, out),
        "What it expects": _expects(network, form, preprocessing),
        "How often it is wrong": _error(network, config, dataset, trained_on),
        "What it was trained on": _data(network, dataset, trained_on),
        "Deviations from the paper": _deviations(config),
    }
    if trained_on.startswith(IMPORTED):
        training = f"with weights that were {trained_on}; it has not been trained since"
        known = "Of these, `data` and `model` are the network's; the others are only defaults."
        sections["Recipe"] = f"{known}\n\n{_recipe(network, config, None)}"
    else:
        sections["Recipe"] = _recipe(network, config, dataset)
        training = f"after {network.step:,} training steps of {config.train.batch_size} pictures"
    title = (
        f"# {out.name}\n\nThe network of Krizhevsky, Sutskever and Hinton, [ImageNet Classification"
        f" with Deep Convolutional Neural Networks]({_PAPER}) (2012), trained to tell "
        f"{len(network.classes)} classes of pictures apart. Written by `alexnet export` of "
        f"alexnet-dali {version('alexnet-dali')}, {training}."
    )
    return "\n\n".join([title, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"


_PAPER = (
    "https://papers.nips.cc/paper_files/paper/2012/hash/"
    "c399862d3b9d6b76c8436e924a68c45b-Abstract.html"
)
_LICENCE = {"module": "\n\nThe code has the BSD-3-Clause licence, which stands at its end."}


def _expects(network: Trained, form: str, preprocessing: bool) -> str:
    data = network.data
    edge = (data.resize - data.crop) // 2
    colour = ", ".join(f"{value:.1f}" for value in network.mean.mean((1, 2)).tolist())
    steps = [
        "RGB from 0 to 255 (not 0 to 1), turned upright as EXIF says.",
        f"The shorter side resized to {data.resize} pixels, bilinear with antialiasing, and the "
        f"central square cut out: [3, {data.resize}, {data.resize}].",
        f"Of that, rows and columns {edge} to {edge + data.crop - 1}, from 0: [3, "
        f"{data.crop}, {data.crop}].",
        f"Less the mean of the training images at each pixel, the tensor `centre.mean` (as colour: "
        f"{colour}). Nothing is divided by a deviation.",
    ]
    inside = form != "onnx" or preprocessing
    who = "You do 1 and 2, the network does 3 and 4." if inside else "You do all four."
    gives = "probabilities" if preprocessing else "logits: a softmax makes them probabilities"
    return (
        "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
        + f"\n\n{who} Out come {gives}, one for each class, in the order of `classes` (folders) "
        "and `names` in the file's metadata, under `network`. Batches may have any size."
    )


def _error(network: Trained, config: Config, dataset: Dataset | None, trained_on: str) -> str:
    errors = None if dataset is None else _measured(network, dataset)
    if errors is None:
        return (
            "Not measured: the run's validation images were not there at the export. `alexnet "
            "evaluate` measures it."
        )
    low, high = interval(errors)
    text = (
        f"**Top-1 error {errors.top1_error:.1%}** (95 % interval {low:.1%} to {high:.1%}), top-5 "
        f"error {errors.top5_error:.1%}, on {errors.num_images:,} validation images, from the "
        f"centre of each; guessing gives {1 - 1 / len(network.classes):.1%}."
    )
    if trained_on.startswith(IMPORTED):
        return text
    if config.optim.schedule == "plateau" or network.path.name == checkpoint.BEST:
        text += (
            " The same images decided on the learning rate or on this checkpoint, so expect a "
            "little more on others."
        )
    return text


def _measured(network: Trained, dataset: Dataset) -> ErrorRates | None:
    try:
        with join("cpu", num_columns=1) as ranks:
            return judge([network], dataset, ranks, num_views=1)[0].errors()
    except (OSError, ValueError):
        return None


def _data(network: Trained, dataset: Dataset | None, trained_on: str) -> str:
    is_imagenet = all(map(_IMAGENET.fullmatch, network.classes))
    terms = f"\n\n{_IMAGENETS_TERMS if is_imagenet else _UNKNOWN_TERMS}"
    imported = trained_on.startswith(IMPORTED)
    counts = "" if dataset is None or imported else f"{len(dataset.train):,} images of "
    names = [f"`{one_line(name).replace('`', chr(39))}`" for name in network.names[:_MOST_NAMES]]
    more = len(network.names) - len(names)
    text = f"{counts}{len(network.classes)} classes: {', '.join(names)}"
    text += f", and {more} more." if more else "."
    if imported:
        return f"{text} On which images of them is not recorded: the weights are imported.{terms}"
    text += f" Fingerprint of the prepared images: `{trained_on[:16]}`."
    if dataset is not None and dataset.fingerprint != trained_on:
        text += f" The error and the counts are of others: `{dataset.fingerprint[:16]}`."
    if network.recipe["train"]["init_from"]:
        text += " It began with layers of another network, whose images count, too."
    return text + terms


def _deviations(config: Config) -> str:
    changes = changed_options(Config(), config)
    rows = [
        [f"`{one.option}`", _cell(one.old), _cell(one.new)]
        for one in changes
        if one.option not in _LEFT_OUT
    ]
    table = markdown(rows, ["option", "`configs/alexnet.yaml`, as the paper", "here"])
    text = "Where the paper is silent, its authors' code of 2012 is followed: windows of "
    text += "convolutions may reach over the lower and right edge, where they see zeros."
    if config.data.lighting_std:
        text += " Lighting noise has the square roots of the eigenvalues, as in that code."
    if config.data.augment:
        text += " Every image has a crop and a flip of its own."
    text += " DESIGN.md of alexnet-dali has the whole list."
    return f"{table}\n\n{text}" if rows else f"No option. {text}"


def _recipe(network: Trained, config: Config, dataset: Dataset | None) -> str:
    text = f"```yaml\n{yaml.safe_dump(recipe(network), sort_keys=False)}```"
    if dataset is None:
        return text
    done = network.step / (len(dataset.train) // config.train.batch_size)
    return f"Done so far: {done:.1f} epochs.\n\n{text}"


def _cell(value: Any) -> str:
    return f"`{str(value).replace('|', '/')}`"
