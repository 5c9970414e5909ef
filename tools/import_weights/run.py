"""The folder of a run that nobody has trained here: a recipe, and a checkpoint of step 0."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.pipeline.messages import one_line
from alexnet_dali.pipeline.stats import STATS_SIZE, PixelStats, area_weights
from alexnet_dali.pipeline.system.files import atomic_folder
from alexnet_dali.tools.import_weights.published import Imported
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.checkpoint import Best
from alexnet_dali.train.checkpoints.content import IMPORTED
from alexnet_dali.train.checkpoints.state import TrainingState
from alexnet_dali.train.config import to_dict, to_yaml


def write(out: Path, found: Imported, stats: PixelStats, source: Path) -> None:
    """Write the folder `out`; ValueError where something is there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; nothing was changed: choose another --out")
    config = replace(found.config, run=replace(found.config.run, dir=str(out)))
    model = AlexNet(config.model, len(found.classes), config.data.crop)
    model.load_full_state(_padded(model, found))
    state = TrainingState.initial(model, config.optim, config.train.epochs)
    about = {
        "config": to_dict(config),
        "classes": found.classes,
        "names": found.names,
        "stats": {key: torch.from_numpy(value) for key, value in vars(stats).items()},
        "dataset": IMPORTED + f"{one_line(source.name)}, SHA-256 {_sha256(source)}",
        "best": asdict(Best()),
    }
    gathered = state.gather(lambda sums: sums[None])
    with atomic_folder(out) as folder:
        (folder / "config.yaml").write_text(to_yaml(config))
        checkpoint.save(folder / "checkpoints", gathered | about, keep=1)


def stats_of(mean: NDArray[np.float64], crop: int, resize: int) -> PixelStats:
    """Statistics with this mean: a colour [3], or an image of the centre or of the whole square.

    An image is [crop, crop, 3] or [256, 256, 3]. Around a centre there is its mean colour. The
    directions of colours are not known: they are 0.
    """
    colour = mean.reshape(-1, 3).mean(0)
    image = np.broadcast_to(colour, (STATS_SIZE, STATS_SIZE, 3))
    if mean.ndim > 1 and len(mean) != crop:
        image = mean
    elif mean.ndim > 1:
        # The image whose resized centre it is: the smallest one, about the colour.
        edge = (resize - crop) // 2
        back = np.linalg.pinv(area_weights(STATS_SIZE, resize)[edge : edge + crop])
        image = image + np.einsum("ij,jkc,lk->ilc", back, mean - colour, back, optimize=True)
    return PixelStats(np.array(image, np.float32), colour, np.zeros(3), np.eye(3))


def _padded(model: AlexNet, found: Imported) -> dict[str, torch.Tensor]:
    """The weights for both columns, which need an even number of outputs in fc8."""
    full = {}
    for name, own in model.full_state().items():
        values = torch.tensor(found.weights[name])
        full[name] = torch.zeros_like(own)
        full[name][: len(values)] = values
    return full


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
