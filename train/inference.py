"""What a trained network says of any pictures: for notebooks, and for `alexnet predict`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_dali.model.columns import Columns
from alexnet_dali.pipeline.cores import threads_of_a_rank
from alexnet_dali.pipeline.dataset import ImageList
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Batch
from alexnet_dali.pipeline.prepare.pictures import open_pictures
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.train.data import evaluation_batches
from alexnet_dali.train.evaluation import centre_view, probabilities
from alexnet_dali.train.networks import Trained, open_network
from alexnet_dali.train.parallel.ranks import Ranks

Images = Tensor | NDArray[np.uint8] | Sequence[str | Path]
"""Paths of files, or central squares [N, 3, S, S] uint8, RGB, where S is the network's `resize`."""

_TOGETHER = 128
"""Images that are computed at a time."""


@dataclass(frozen=True)
class Run:
    """A trained network, and what it says of images. `open_run` makes it."""

    network: Trained
    _ranks: Ranks

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
        side = self.network.config.data.resize
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
            size = self.network.config.data.resize
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
        yield from evaluation_batches(images, network.config.data, ranks, size)


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
