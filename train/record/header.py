"""What a run says of itself when it starts."""

import shlex
from pathlib import Path

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.layers import Conv, shapes
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.train.config import Config
from alexnet_dali.train.data import TrainingPlan
from alexnet_dali.train.parallel.ranks import Ranks


def num_parameters(model: AlexNet, crop: int) -> int:
    """Weights and biases of the whole network, wherever its columns are."""
    columns = model.columns.num_columns
    total = 0
    for layer in model.table:
        shape = shapes(model.table, columns, crop)[layer.name]
        window = layer.size**2 if isinstance(layer, Conv) else 1
        gives = model.num_classes if layer is model.table[-1] else columns * shape.out_channels
        total += gives * (shape.in_channels * window + 1)
    return total


def header(
    config: Config, model: AlexNet, dataset: Dataset, plan: TrainingPlan, ranks: Ranks
) -> list[str]:
    """Five lines: the network, the images, the plan, the folder, and how to watch."""
    folder = Path(str(config.run.dir))
    where = "GPUs" if ranks.device.type == "cuda" else "the CPU"
    columns = "two columns" if model.columns.num_columns == 2 else "one column"
    return [
        f"network: {len(model.table)} layers in {columns}, "
        f"{num_parameters(model, config.data.crop):,} parameters",
        f"images: {len(dataset.train):,} for training, {len(dataset.val):,} for validation, "
        f"{len(dataset.classes):,} classes, from {dataset.folder}",
        f"plan: {config.train.epochs} epochs of {plan.steps_per_epoch:,} steps, "
        f"{config.train.batch_size} images a step; ranks: {ranks.world_size}, on {where}",
        f"folder: {folder}",
        f"watch: tensorboard --logdir {shlex.quote(str(logdir(folder)))} --host localhost",
    ]


def logdir(folder: Path) -> Path:
    """Where TensorBoard finds the run: in `runs` with the others, or in its own folder."""
    return folder.parent if folder.parent.name == "runs" else folder
