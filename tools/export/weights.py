"""A trained network as a safetensors file (needs safetensors)."""

from safetensors.torch import save

from alexnet_dali.tools.export.plain import metadata, tensors
from alexnet_dali.train.networks import Trained


def safetensors_file(network: Trained) -> bytes:
    """The file: tensors under plain names, with recipe and classes in its metadata."""
    return save(tensors(network), metadata(network))
