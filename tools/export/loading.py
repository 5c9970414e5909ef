"""Code that loads an export, for its card."""

from pathlib import Path

_SQUARE = '''
def square(path, size):
    """The central square of a picture: uint8 [3, size, size], RGB."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.array(image).transpose(2, 0, 1)

'''

_MODULE = (
    """import numpy as np
import torch
from PIL import Image, ImageOps
from {stem} import load

"""
    + _SQUARE
    + """
network = load()    # reads {stem}.safetensors, beside {name}
images = torch.from_numpy(square("picture.jpg", network.resize)[None])
with torch.no_grad():
    probabilities = network(images).softmax(1)[0].numpy()
print(network.class_names[probabilities.argmax()])
"""
)

_GRAPH = (
    """import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

"""
    + _SQUARE
    + """
session = onnxruntime.InferenceSession("{name}")
about = json.loads(session.get_modelmeta().custom_metadata_map["network"])
squares = square("picture.jpg", about["resize"])[None]
"""
)

_WITH_PREPROCESSING = (
    _GRAPH
    + """(probabilities,) = session.run(None, {{"squares": squares}})
print(about["names"][probabilities[0].argmax()])
"""
)

_WITHOUT = (
    _GRAPH
    + """
# The mean is not in the graph: alexnet export RUN --to safetensors writes it.
from safetensors.numpy import load_file

mean = load_file("alexnet.safetensors")["centre.mean"]
crop, edge = about["crop"], (about["resize"] - about["crop"]) // 2
crops = squares[:, :, edge : edge + crop, edge : edge + crop] - mean
(logits,) = session.run(None, {{"crops": crops}})
print(about["names"][logits[0].argmax()])
"""
)

_WEIGHTS = """import json

from safetensors import safe_open

with safe_open("{name}", "pt") as file:
    about = json.loads(file.metadata()["network"])    # layers, sides in pixels, classes
    weights = {{name: file.get_tensor(name) for name in file.keys()}}
"""


def code(form: str, preprocessing: bool, out: Path) -> str:
    """A block of Python for the Markdown of the card, with what it needs."""
    if form == "module":
        needs, text = "torch, numpy and pillow", _MODULE
    elif form == "onnx":
        text = _WITH_PREPROCESSING if preprocessing else _WITHOUT
        needs = "onnxruntime, numpy and pillow" + ("" if preprocessing else ", and safetensors")
    else:
        needs, text = "torch and safetensors", _WEIGHTS
    block = text.format(name=out.name, stem=out.stem)
    return f"It needs {needs}.\n\n```python\n{block}```"
