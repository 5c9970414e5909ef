"""Code that loads an export, for its card."""

from pathlib import Path

_SQUARE = '''
def square(path, size):
    """The central square of a picture: uint8 [3, size, size], RGB."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.array(image).transpose(2, 0, 1)
'''

_MODULE = f"""\
import numpy as np
import torch
from PIL import Image, ImageOps
from STEM import load

{_SQUARE}

network = load()    # reads STEM.safetensors, beside STEM.py
images = torch.from_numpy(square("picture.jpg", network.resize)[None])
with torch.no_grad():
    probabilities = network(images).softmax(1)[0]
print(network.class_names[probabilities.argmax()])
"""

_GRAPH = f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
IMPORT
{_SQUARE}

session = onnxruntime.InferenceSession("NAME")
about = json.loads(session.get_modelmeta().custom_metadata_map["network"])
squares = square("picture.jpg", about["resize"])[None]
"""

_WITH_PREPROCESSING = """\
(probabilities,) = session.run(None, {"squares": squares})
print(about["names"][probabilities[0].argmax()])
"""

_WITHOUT = """\
# The mean is not in the graph: alexnet export RUN --to safetensors --out weights.safetensors
mean = load_file("weights.safetensors")["centre.mean"]
crop, edge = about["crop"], (about["resize"] - about["crop"]) // 2
crops = squares[:, :, edge : edge + crop, edge : edge + crop] - mean
(logits,) = session.run(None, {"crops": crops})
print(about["names"][logits[0].argmax()])
"""

_WEIGHTS = """\
import json

from safetensors import safe_open

with safe_open("NAME", "pt") as file:
    about = json.loads(file.metadata()["network"])    # layers, sides in pixels, classes
    weights = {name: file.get_tensor(name) for name in file.keys()}
"""

_NETWORK = """

Their network is one file of alexnet-dali, `tools/export/plain_alexnet.py`, which needs torch alone:
its `load("NAME")` reads them."""


def code(form: str, preprocessing: bool, out: Path) -> str:
    """What it needs, and a block of Python, in Markdown."""
    if form == "module":
        needs, text = "torch, numpy and pillow", _MODULE
    elif form == "safetensors":
        needs, text = "torch and safetensors", _WEIGHTS
    elif preprocessing:
        needs, text = "onnxruntime, numpy and pillow", _GRAPH + _WITH_PREPROCESSING
        text = text.replace("IMPORT", "")
    else:
        needs, text = "onnxruntime, safetensors, numpy and pillow", _GRAPH + _WITHOUT
        text = text.replace("IMPORT", "from safetensors.numpy import load_file")
    block = text.replace("NAME", out.name).replace("STEM", out.stem)
    more = _NETWORK.replace("NAME", out.name) if form == "safetensors" else ""
    return f"It needs {needs}.\n\n```python\n{block}```{more}"
