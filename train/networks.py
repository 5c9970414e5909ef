"""Trained networks, for the commands that look at them."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import Conv, layers, shapes
from alexnet_dali.pipeline.dataset import Dataset, DatasetError, ImageList
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch
from alexnet_dali.pipeline.progress import progress
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import DataConfig, from_dict, to_dict
from alexnet_dali.train.data import crop_mean, evaluation_batches
from alexnet_dali.train.evaluation import probabilities
from alexnet_dali.train.parallel.devices import set_matmul_precision
from alexnet_dali.train.parallel.ranks import Ranks


class Trained(NamedTuple):
    """A network as its checkpoint left it, and what it expects of images."""

    path: Path
    step: int
    recipe: dict[str, Any]  # its run's whole config, in plain values
    data: DataConfig
    architecture: ModelConfig
    model: AlexNet
    mean: Tensor  # [3, crop, crop] of its training images, subtracted from every view
    classes: list[str]
    names: list[str]  # what people call the classes


def open_network(path: Path, device: torch.device, columns: Columns | None = None) -> Trained:
    """Build and load the network of a checkpoint, or of a run's newest.

    CheckpointError where `path` is neither.
    """
    path = checkpoint.named(path)
    state: dict[str, Any] = checkpoint.load(path)
    set_matmul_precision("fp32", device)
    try:
        config = from_dict(state["config"])
        stats = PixelStats.of({key: value.numpy() for key, value in state["stats"].items()})
        _check_weights(state["model"], config.model, config.data.crop, len(state["classes"]))
    except (ValueError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: not a checkpoint of this project, or damaged ({error})"
        ) from error
    model = AlexNet(config.model, len(state["classes"]), config.data.crop, columns).to(device)
    checkpoint.check_shapes(path, state["model"], model)
    model.load_full_state(state["model"])
    mean, classes = crop_mean(stats, config.data, device), state["classes"]
    return Trained(
        path,
        state["step"],
        to_dict(config),
        config.data,
        config.model,
        model,
        mean,
        classes,
        state["names"],
    )


def _check_weights(
    full: dict[str, Tensor], config: ModelConfig, crop: int, num_classes: int
) -> None:
    """ValueError unless the weights are those that `config` asks for, which may be any number."""
    table, num_columns = layers(config, num_classes), config.columns
    for line in table:
        shape = shapes(table, num_columns, crop)[line.name]
        window = [line.size] * 2 if isinstance(line, Conv) else []
        expected = [num_columns * shape.out_channels, shape.in_channels, *window]
        found = full.get(f"{line.name}.weight")
        if found is None or list(found.shape) != expected:
            raise ValueError(f"its config asks for {expected} weights in {line.name}")


def check_classes(network: Trained, dataset: Dataset) -> None:
    """DatasetError where the images are not of the classes that the network was trained on."""
    if dataset.classes == network.classes:
        return
    pairs = itertools.zip_longest(dataset.classes, network.classes)
    number, found, expected = next((i, *pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DatasetError(
        f"{dataset.folder} has {len(dataset.classes)} classes, {network.path} was trained on "
        f"{len(network.classes)}; class {number} is {found} here and {expected} there. Evaluate "
        "on images prepared with the same class folders"
    )


def batches(network: Trained, images: ImageList, ranks: Ranks, batch_size: int) -> Iterator[Batch]:
    """All images as the network is evaluated on them, with progress.

    `batch_size` counts the images of all ranks.
    """
    total = -(-len(images) // batch_size)
    with progress(total, str(network.path), "batches", shown=ranks.is_main) as advance:
        for batch in evaluation_batches(images, network.data, ranks, batch_size):
            yield batch
            advance(1)


def predict(
    network: Trained, dataset: Dataset, ranks: Ranks, num_views: int, batch_size: int = 128
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities [N, C] and labels [N] of all validation images, in their order.

    Only the main rank gets them. `batch_size` is that of one rank.
    """
    check_classes(network, dataset)
    rows = []
    for batch in batches(network, dataset.val, ranks, batch_size * ranks.world_size):
        own = probabilities(network.model, batch.images, network.mean, num_views)
        with_labels = torch.cat([own, batch.labels[:, None].double()], dim=1)
        everyones = ranks.all_gather_over_pairs(with_labels).flatten(0, 1)
        rows.append(everyones[: len(everyones) if ranks.is_main else 0].cpu().numpy())
    table = np.concatenate(rows)
    table = table[table[:, -1] != IGNORE_INDEX]
    return table[:, :-1], table[:, -1].astype(np.int64)
