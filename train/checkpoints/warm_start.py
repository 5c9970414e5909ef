"""Begin with the layers of a network that was trained before (paper, section 6: pre-training)."""

from pathlib import Path

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.train.checkpoints import checkpoint


def take_layers(model: AlexNet, path: Path, classes: list[str]) -> tuple[list[str], list[str]]:
    """Copy into `model` what fits of a checkpoint; returns (layers taken, layers afresh).

    `path` may also be a run; its newest checkpoint is taken. A layer fits if its weight and bias
    have the same shapes. The last one must also have been trained on the same `classes`.
    CheckpointError where nothing fits.
    """
    state = checkpoint.load(checkpoint.named(path))
    old, new = state["model"], model.full_state()
    layers = list(dict.fromkeys(key.split(".")[0] for key in new))
    taken = [
        layer
        for layer in layers
        if all(
            key in old and old[key].shape == new[key].shape
            for key in new
            if key.split(".")[0] == layer
        )
        and (layer != layers[-1] or state["classes"] == classes)
    ]
    if not taken:
        raise checkpoint.CheckpointError(
            f"{path}: none of its layers fits this network; train without train.init_from"
        )
    model.load_full_state(
        {key: old[key] if key.split(".")[0] in taken else value for key, value in new.items()}
    )
    return taken, [layer for layer in layers if layer not in taken]
