"""Trained networks: opened from checkpoints, and what they say of images."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import Conv, layers, shapes
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.pictures import open_pictures
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.pipeline.system.cores import threads_of_a_rank
from alexnet_dali.pipeline.system.progress import progress
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import DataConfig, from_dict, to_dict
from alexnet_dali.train.data import crop_mean, evaluation_batches
from alexnet_dali.train.evaluation import Outcomes, centre_view, outcomes, probabilities
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


def open_dataset(folder: str | Path | None, network: Trained) -> Dataset:
    """The prepared folder, or without one that of the network's run; DatasetError if it is gone."""
    if folder is not None:
        return Dataset.open(Path(folder))
    try:
        return Dataset.open(Path(str(network.data.root)))
    except DatasetError as error:
        raise DatasetError(
            f"{error} ({network.path} was trained on it; else give --data)"
        ) from error


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


def batches(
    network: Trained, images: ImageList, ranks: Ranks, batch_size: int, name: str = ""
) -> Iterator[Batch]:
    """All images as the network is evaluated on them, with progress by `name`, or the network's.

    `batch_size` counts the images of all ranks.
    """
    total, name = -(-len(images) // batch_size), name or str(network.path)
    with progress(total, name, "batches", shown=ranks.is_main) as advance:
        for batch in evaluation_batches(images, network.data, ranks, batch_size):
            yield batch
            advance(1)


def predict(
    networks: Sequence[Trained],
    dataset: Dataset,
    ranks: Ranks,
    num_views: int,
    batch_size: int = 128,
    split: str = "val",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities [M, N, C] by M networks, and labels [N], of all images of a list, in its order.

    Only the main rank gets them, and holds them all in memory; `judge` holds none. `batch_size` is
    that of one rank. DatasetError where there is no such list, or its classes are others.
    """
    images = dataset.images(split)
    count = len(images) if ranks.is_main else 0
    scores, done = np.empty((len(networks), count, len(dataset.classes))), 0
    for some, labels in _outputs(networks, dataset, images, ranks, num_views, batch_size):
        rows = torch.cat([*ranks.all_gather_over_pairs(some)], 1).cpu().numpy()
        whose = torch.cat([*ranks.all_gather_over_pairs(labels)]).cpu().numpy()
        if ranks.is_main:
            places = slice(done, done := done + int((whose != IGNORE_INDEX).sum()))
            scores[:, places] = rows[:, whose != IGNORE_INDEX]
    return scores, images.labels[:count].astype(np.int64)


def judge(
    networks: Sequence[Trained],
    dataset: Dataset,
    ranks: Ranks,
    num_views: int,
    batch_size: int = 128,
    split: str = "val",
    weights: Sequence[Sequence[float]] = (),
) -> list[Outcomes]:
    """What `predict` would tell of each network's errors, and of their mixtures by the `weights`.

    Every rank gets them all. Memory does not grow with the number of classes times that of images.
    """
    images = dataset.images(split)
    return outcomes(
        _outputs(networks, dataset, images, ranks, num_views, batch_size),
        len(images),
        weights,
        lambda rows: torch.cat([*ranks.all_gather_over_pairs(rows)], 1),
    )


def _outputs(
    networks: Sequence[Trained],
    dataset: Dataset,
    images: ImageList,
    ranks: Ranks,
    num_views: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities [M, n, C] and labels [n] of this rank's share of each batch.

    An image is decoded once for all networks that see it in the same size.
    """
    for network in networks:
        check_classes(network, dataset)
    size = batch_size * ranks.world_size
    kinds = {_kind(network): network for network in networks}
    name = f"{len(networks)} networks" if len(networks) > 1 else ""
    streams = (batches(network, images, ranks, size, name) for network in kinds.values())
    for several in zip(*streams, strict=True):
        seen = dict(zip(kinds, several, strict=True))
        scores = [
            probabilities(one.model, seen[_kind(one)].images, one.mean, num_views)
            for one in networks
        ]
        yield torch.stack(scores), several[0].labels


def _kind(network: Trained) -> tuple[int, str]:
    """Equal for networks that see the same squares."""
    return network.data.resize, network.data.decoder


Images = Tensor | NDArray[np.uint8] | Sequence[str | Path]
"""Paths of files, or central squares [N, 3, S, S] uint8, RGB, where S is the network's `resize`."""

_TOGETHER = 128
"""Images that are computed at a time."""


@dataclass(frozen=True)
class Run:
    """A trained network, and what it says of images. `open_run` makes it."""

    network: Trained
    _ranks: Ranks

    def __repr__(self) -> str:
        network = self.network
        return f"Run({network.path}, step {network.step}, {len(network.classes)} classes)"

    @property
    def classes(self) -> list[str]:
        """The class folders, in the order of the scores."""
        return self.network.classes

    @property
    def names(self) -> list[str]:
        """What people call these classes."""
        return self.network.names

    def predict(self, images: Images, views: int = 1) -> NDArray[np.float64]:
        """Probabilities [N, C]: of the central crop, or with `views=10` averaged (section 4.1).

        ValueError where an image can't be used, or there is none.
        """
        if views not in (1, 10):
            raise ValueError(f"views is {views}; expected 1 or 10")
        network = self.network
        return self._rows(
            images, lambda squares: probabilities(network.model, squares, network.mean, views)
        )

    def features(self, images: Images) -> NDArray[np.float32]:
        """The last hidden layer [N, width] of the central crop, as tested: fc7 (section 6.1).

        Errors are those of `predict`.
        """
        model, mean = self.network.model, self.network.mean
        return self._rows(
            images,
            lambda squares: model.last_hidden(centre_view(squares, mean.shape[-1]) - mean).float(),
        )

    @torch.no_grad()
    def _rows(self, images: Images, compute: Callable[[Tensor], Tensor]) -> NDArray:
        """A row for each image, in their order, from `compute` of squares [n, 3, S, S] float32."""
        if isinstance(images, str | Path):
            images = [images]
        if not len(images):
            raise ValueError("found no image; expected one or more")
        if isinstance(images, Tensor | np.ndarray):
            squares = self._checked(torch.as_tensor(images))
            parts = squares.split(_TOGETHER)
            rows = [compute(part.to(self._ranks.device).float()).cpu() for part in parts]
            return torch.cat(rows).numpy()
        return self._rows_of_files(list(map(Path, images)), compute)

    def _checked(self, squares: Tensor) -> Tensor:
        side = self.network.data.resize
        expected = (len(squares), 3, side, side)
        if squares.dtype != torch.uint8 or squares.shape != expected:
            raise ValueError(
                f"found images {list(squares.shape)} {squares.dtype}; expected [N, 3, {side}, "
                f"{side}] torch.uint8, RGB"
            )
        return squares

    def _rows_of_files(self, paths: list[Path], compute: Callable[[Tensor], Tensor]) -> NDArray:
        names = [str(path.absolute()).lstrip("/") for path in paths]
        source = Source.of(Path("/"), names, [0] * len(names))
        rows: dict[int, NDArray] = {}
        with TemporaryDirectory(prefix="predict-") as folder, Workers() as pool:
            size = self.network.data.resize
            lists, odd = open_pictures(source, size, pool, Path(folder))
            if odd:
                place, reason = next(iter(odd.items()))
                more = f" (and {len(odd) - 1} more can't be used)" if len(odd) > 1 else ""
                raise ValueError(f"{paths[place]}: {reason}{more}")
            for batch in batches_of(self.network, lists, self._ranks, _TOGETHER):
                found = compute(batch.images).cpu().numpy()
                for place, row in zip(batch.labels.tolist(), found, strict=True):
                    if place != IGNORE_INDEX:
                        rows[place] = row
        return np.stack([rows[place] for place in range(len(paths))])


def batches_of(
    network: Trained, lists: Iterable[ImageList], ranks: Ranks, batch_size: int
) -> Iterator[Batch]:
    """Central squares of the lists that `open_pictures` gives, with their places as labels."""
    for images in lists:
        size = min(batch_size, len(images))
        yield from evaluation_batches(images, network.data, ranks, size)


def open_run(path: str | Path, device: str = "auto") -> Run:
    """The network of a run's newest checkpoint, or of a checkpoint file, for any images.

    `device` is cpu, cuda or auto: cuda where there is a GPU. Products are computed in float32 from
    then on, in the whole process, and cuDNN is deterministic. CheckpointError where `path` is no
    run.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    ranks = Ranks(0, 1, where, threads_of_a_rank(False, 1), Columns.whole(1))
    return Run(open_network(Path(path), where), ranks)
