"""The pipeline wired to the ranks: each reads its own part of every global batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.crops import RandomCrop
from pipeline.data_loader import DataLoader
from pipeline.dataset import Dataset, ImageList
from pipeline.loader import Batch, Loader
from pipeline.pixels import Pixels
from pipeline.plan import EvaluationPlan, TrainingPlan
from pipeline.preprocessing import Preprocessing
from pipeline.stand_ins import OnBadImage, stop
from pipeline.stats import PixelStats
from train.config import Config, ConfigError, DataConfig
from train.distributed import Ranks

MOST_THREADS_A_GPU = 16
"""For each thread, DALI reserves 16 MB of the GPU's memory, and as much pinned memory."""


def training_plan(config: Config, dataset: Dataset) -> TrainingPlan:
    """What every step of the run is given; ConfigError where the batch is larger than the data."""
    batch_size, num_images = config.train.batch_size, len(dataset.train)
    if batch_size > num_images:
        raise ConfigError(
            f"train.batch_size is {batch_size}, but {dataset.folder} has {num_images} training "
            "images; expected a batch of no more than that"
        )
    num_steps = config.train.epochs * (num_images // batch_size)
    num_steps = min(num_steps, config.run.max_steps or num_steps)
    data = config.data
    margin = data.resize - data.crop
    augmentation = (data.crops_and_flips, data.lighting_epochs)
    return TrainingPlan(num_images, batch_size, margin, config.train.seed, num_steps, *augmentation)


def training_batches(
    dataset: Dataset,
    plan: TrainingPlan,
    config: Config,
    ranks: Ranks,
    step: int,
    on_bad_image: OnBadImage,
) -> Iterator[Batch]:
    """Augmented batches from `step` on, for this rank; a pair of columns gets both its parts."""
    data = config.data
    ranks.share(plan.batch_size)
    loader = training_loader(
        dataset,
        plan,
        data,
        step,
        device=ranks.device,
        num_threads=data.num_threads or _num_threads(ranks),
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=config.train.seed,
        on_bad_image=on_bad_image,
    )
    return ranks.exchange(_epochs(loader, plan.num_steps))


def training_loader(
    dataset: Dataset, plan: TrainingPlan, data: DataConfig, step: int, **options: Any
) -> DataLoader:
    """The run's images from `step` on; `options` are DataLoader's that are not the recipe's."""
    loader = DataLoader(
        dataset,
        global_batch_size=plan.batch_size,
        crops=RandomCrop(data.crop, data.resize),
        pixels=Pixels(
            data.mean,
            std=(1.0, 1.0, 1.0),
            lighting_std=data.lighting_std,
            lit_gain=1 / (1 + data.lighting_std) if data.lighting_rescale else 1.0,
        ),
        plan=plan,
        **options,
    )
    loader.load_state_dict(loader.state_dict() | {"step": step})
    return loader


def _epochs(loader: DataLoader, num_steps: int) -> Iterator[Batch]:
    """One epoch after the other, up to `num_steps` steps."""
    while loader.step < num_steps:
        yield from loader


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
    plan = EvaluationPlan(len(images), batch_size)
    ranks.share(batch_size)
    loader = Loader(
        images,
        plan,
        Preprocessing.nothing(data.resize),
        device=ranks.device,
        num_threads=data.num_threads or _num_threads(ranks),
        part=ranks.rank,
        num_parts=ranks.world_size,
        on_bad_image=on_bad_image,
        count_stand_ins=False,
    )
    return ranks.exchange(loader)


def samples(images: ImageList, count: int, data: DataConfig, ranks: Ranks) -> Batch:
    """Central squares of some images, evenly spread over their list; every rank gets them all."""
    count = min(count, len(images))
    some = images.take(np.arange(count) * len(images) // count)
    plan, nothing = EvaluationPlan(count, count), Preprocessing.nothing(data.resize)
    threads = data.num_threads or _num_threads(ranks)
    return next(iter(Loader(some, plan, nothing, device=ranks.device, num_threads=threads)))


def crop_mean(stats: PixelStats, data: DataConfig, device: torch.device) -> Tensor:
    """[3, crop, crop]: what is subtracted from every view, in training and in evaluation."""
    preprocessing = Preprocessing.of(stats, data.resize, data.crop, data.mean)
    mean = preprocessing.mean_image
    assert mean is not None
    return torch.tensor(mean.transpose(2, 0, 1), device=device)


def _num_threads(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return min(ranks.num_threads, MOST_THREADS_A_GPU)
    return ranks.num_threads
