"""A trained network as a safetensors file (needs safetensors)."""

from alexnet_dali.tools.export.plain import metadata, tensors
from alexnet_dali.train.networks import Trained

try:
    from safetensors.torch import save
except ImportError:
    save = None  # type: ignore[assignment]


def safetensors_file(network: Trained) -> bytes:
    """The file: tensors under plain names, with recipe and classes in its metadata.

    ValueError where the package is missing.
    """
    if save is None:
        raise ValueError("this needs safetensors: pip install -e '.[export]'")
    return save(tensors(network), metadata(network))
