"""A trained network as a safetensors file (needs safetensors)."""

from safetensors.torch import save

from alexnet_dali.tools.export.plain import metadata, tensors
from alexnet_dali.train.networks import Trained


def safetensors_file(network: Trained, card: str) -> bytes:
    """The file: tensors under plain names, with recipe, classes and the card in its metadata."""
    return save(tensors(network), metadata(network, card))
