"""Plans, transforms and batches for tests."""

from contextlib import closing
from typing import Any

import numpy as np

from alexnet_dali.pipeline.crops import CentreCrop, Crops, RandomCrop
from alexnet_dali.pipeline.feeder import Batch, Feeder, IndexedBatch
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.plan import EpochPlan, Plan, in_order, shuffled
from alexnet_dali.pipeline.transform import Transform


def plain(size: int) -> Transform:
    """Pixels as they are, without mean and lighting."""
    return Transform(size, None, np.zeros((3, 3)))


def training_plan(
    images: ImageList,
    crops: Crops = RandomCrop(80, 96),
    *,
    batch_size: int = 12,
    num_steps: int = 12,
    **options: Any,
) -> EpochPlan:
    """Shuffled epochs, of which `num_steps` are shown in all."""
    plan = EpochPlan(images, batch_size, crops, shuffled, **{"seed": 3, **options})
    plan.num_steps = num_steps
    return plan


def evaluation_plan(images: ImageList, side: int, batch_size: int) -> EpochPlan:
    """Central squares of every image, once."""
    crops = CentreCrop(side, side)
    plan = EpochPlan(images, batch_size, crops, in_order, 0, lighting_epochs=0, drop_last=False)
    plan.num_steps = plan.steps_per_epoch
    return plan


def shown(
    images: ImageList, plan: Plan, transform: Transform, **options: Any
) -> list[Batch | IndexedBatch]:
    """All batches of a plan."""
    with closing(Feeder(images, plan, transform, **{"num_threads": 2, **options})) as feeder:
        return list(feeder)


def some_images(count: int, height: int = 256, width: int = 256) -> ImageList:
    """A list of images that need not exist."""
    names = [f"{number}.jpg" for number in range(count)]
    return ImageList.of("/nowhere", names, [0] * count, [(height, width)] * count)
