"""What `alexnet export --to safetensors` has written, back to a run (needs safetensors).

RGB, [outputs, inputs, rows, columns], as tools/export/weights.py writes it.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_dali.tools.import_weights.published import Imported, check_weights
from alexnet_dali.train.config import from_dict

_OURS = "expected a file that `alexnet export --to safetensors` has written"


def read(path: Path) -> Imported:
    """The network of such a file; ValueError for any other."""
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        recipe, network = json.loads(about["recipe"]), json.loads(about["network"])
        config, classes, names = from_dict(recipe), network["classes"], network["names"]
        mean = weights.pop("centre.mean").transpose(1, 2, 0).astype(np.float64)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file, or is cut short ({error})") from error
    except KeyError as error:
        raise ValueError(f"it has no {error}; {_OURS}") from error
    if "fc8.bias" not in weights or mean.shape != (config.data.crop, config.data.crop, 3):
        raise ValueError(f"its fc8 or its centre.mean is missing, or of another size; {_OURS}")
    check_weights(weights, config)
    return Imported(config, weights, mean, classes, names)
