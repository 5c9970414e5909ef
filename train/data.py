"""The pipeline wired to the ranks: each reads its own shard of every global batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet_dali.pipeline.crops import CentreCrop, RandomCrop
from alexnet_dali.pipeline.data_loader import DataLoader
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import Batch
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.reading.replacements import OnBadImage, stop
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.pipeline.system.cores import MOST_THREADS_A_GPU
from alexnet_dali.pipeline.transform import Colour, Pixels
from alexnet_dali.train.config import ConfigError, DataConfig, TrainConfig
from alexnet_dali.train.parallel.ranks import Ranks

_BLACK: Colour = (0.0, 0.0, 0.0)
_WHOLE: Colour = (1.0, 1.0, 1.0)


class TrainingPlan(NamedTuple):
    """How long a run is, in steps; `batch_size` counts the images of all ranks."""

    batch_size: int
    epochs: int
    steps_per_epoch: int
    num_steps: int

    def __str__(self) -> str:
        return (
            f"{self.epochs} epochs of {self.steps_per_epoch:,} steps, {self.batch_size} images a "
            "step"
        )


def training_plan(train: TrainConfig, dataset: Dataset, max_steps: int | None) -> TrainingPlan:
    """The run's length; ConfigError where the batch is larger than the data."""
    batch_size, num_images = train.batch_size, len(dataset.train)
    if batch_size > num_images:
        raise ConfigError(
            f"train.batch_size is {batch_size}, but {dataset.folder} has {num_images} training "
            "images; expected a batch of no more than that"
        )
    steps_per_epoch = num_images // batch_size
    num_steps = train.epochs * steps_per_epoch
    return TrainingPlan(
        batch_size, train.epochs, steps_per_epoch, min(num_steps, max_steps or num_steps)
    )


def training_batches(
    dataset: Dataset,
    data: DataConfig,
    train: TrainConfig,
    ranks: Ranks,
    steps: range,
    on_bad_image: OnBadImage,
) -> Iterator[Batch]:
    """Augmented batches of some steps, for this rank; a pair of columns gets both its shards."""
    ranks.check_batch_size(train.batch_size)
    options = _options(data, ranks)
    loader = training_loader(
        dataset, data, train, steps.start, on_bad_image=on_bad_image, **options
    )
    return ranks.exchange(_batches(loader, steps.stop))


def training_loader(
    dataset: Dataset, data: DataConfig, train: TrainConfig, step: int, **options: Any
) -> DataLoader:
    """The run's images from `step` on; `options` are DataLoader's that are not the recipe's."""
    loader = DataLoader(
        dataset,
        global_batch_size=train.batch_size,
        crops=(RandomCrop if data.augment else CentreCrop)(data.crop, data.resize),
        pixels=Pixels(
            "image",
            std=_WHOLE,
            lighting_std=data.lighting_std,
            lit_gain=1 / (1 + data.lighting_std) if data.lighting_rescale else 1.0,
        ),
        lighting_epochs=data.lighting_epochs,
        seed=train.seed,
        **options,
    )
    loader.step = step
    return loader


def evaluation_batches(
    images: ImageList,
    data: DataConfig,
    ranks: Ranks,
    batch_size: int,
    on_bad_image: OnBadImage = stop,
) -> Iterator[Batch]:
    """Central squares [n, 3, resize, resize] of all images, without mean and lighting.

    Each image is counted once over all ranks; a bad one, if `on_bad_image` goes on, is not.
    """
    ranks.check_batch_size(batch_size)
    options = _options(data, ranks)
    loader = _evaluation_loader(images, data, batch_size, on_bad_image=on_bad_image, **options)
    return ranks.exchange(_batches(loader, len(loader)))


def samples(images: ImageList, count: int, data: DataConfig, ranks: Ranks) -> Batch:
    """Central squares of some images, evenly spread over their list; every rank gets them all."""
    count = min(count, len(images))
    some = images.take(np.arange(count) * len(images) // count)
    options = _options(data, ranks) | {"rank": 0, "world_size": 1}
    return Batch(*next(iter(_evaluation_loader(some, data, count, **options))))


def crop_mean(stats: PixelStats, data: DataConfig, device: torch.device) -> Tensor:
    """[3, crop, crop]: what is subtracted from every view, in training and in evaluation."""
    crops = RandomCrop(data.crop, data.resize)
    transform = Pixels("image", std=_WHOLE).transform(stats, crops)
    mean = np.array(transform.mean, np.float32)[:, None, None]
    if transform.mean_image is not None:
        mean = transform.mean_image.transpose(2, 0, 1)
    return torch.tensor(np.broadcast_to(mean, (3, data.crop, data.crop)), device=device)


def _evaluation_loader(
    images: ImageList, data: DataConfig, batch_size: int, **options: Any
) -> DataLoader:
    plain = PixelStats(np.zeros((256, 256, 3), np.float32), np.zeros(3), np.zeros(3), np.eye(3))
    dataset = Dataset(Path(images.root), images, images, [], [], plain, "", "classes")
    return DataLoader(
        dataset,
        "val",
        global_batch_size=batch_size,
        crops=CentreCrop(data.resize, data.resize),
        pixels=Pixels(_BLACK, _WHOLE),
        pad=True,
        **options,
    )


def _options(data: DataConfig, ranks: Ranks) -> dict[str, Any]:
    """DataLoader's options that this rank decides."""
    on_gpu = ranks.device.type == "cuda"
    num_threads = min(ranks.num_threads, MOST_THREADS_A_GPU) if on_gpu else ranks.num_threads
    return {
        "device": ranks.device,
        "decoder": data.decoder,
        "num_threads": data.num_threads or num_threads,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }


def _batches(loader: DataLoader, num_steps: int) -> Iterator[Batch]:
    """One epoch after the other, up to `num_steps` steps."""
    try:
        while loader.step < num_steps:
            for batch in loader:
                yield Batch(*batch)
                if loader.step == num_steps:
                    break
    finally:
        loader.close()
