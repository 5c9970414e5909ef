"""A plan of your own: which images a step shows, and how, as a function of the step alone.

This one is class-balanced, and begins with small crops of the middle that grow from step to step.

python examples/own_plan.py prepared/imagenet
"""

import sys

import numpy as np

from pipeline import DataLoader, Dataset
from pipeline.plan import Views


class Growing:
    """Batches of 64: equally many images of each class, shown by crops that grow to the whole."""

    batch_size, steps_per_epoch, num_steps = 64, 100, 1000

    def __init__(self, labels: np.ndarray, sizes: np.ndarray) -> None:
        self._sizes, self._weights = sizes, 1 / np.bincount(labels)[labels]

    def views(self, step: int, part: int, num_parts: int) -> Views:
        """The rows of a step that fall to this rank: see pipeline.plan.Plan."""
        rng = np.random.Generator(np.random.Philox(key=[0, step]))
        chances = self._weights / self._weights.sum()
        indices = np.split(rng.choice(len(chances), self.batch_size, p=chances), num_parts)[part]
        count, sizes = len(indices), self._sizes[indices]
        side = sizes.min(axis=1, keepdims=True) * (0.5 + 0.5 * step / self.num_steps)
        boxes = np.concatenate([(sizes - side) / 2, (sizes + side) / 2], axis=1)
        return Views(
            indices,
            boxes=boxes,  # top, left, bottom and right, in each image's own pixels
            mirrored=np.zeros(count, bool),
            lighting=np.zeros((count, 3), np.float32),
            counted=np.ones(count, bool),
            corners=np.zeros((count, 2), np.int64),  # not used where there are boxes
        )


if __name__ == "__main__":
    dataset = Dataset.open(sys.argv[1])
    plan = Growing(dataset.train.labels, dataset.train.sizes)
    loader = DataLoader(dataset, global_batch_size=plan.batch_size, plan=plan)
    images, labels = next(iter(loader))
    print(images.shape, np.bincount(labels, minlength=len(loader.classes)))
