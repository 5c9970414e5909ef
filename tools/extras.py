"""Which extra of the installation brings what a plain one lacks."""

EXTRAS = {
    "faiss": "search",
    "jinja2": "plots",
    "matplotlib": "plots",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "psutil": "bench",
    "safetensors": "export",
}
"""The extra in setup.cfg that brings a package."""

_OF_COMMANDS = {"bench": "bench"}
"""Commands that need several packages, and the extra that brings them all."""


def needed(command: str, error: ModuleNotFoundError) -> str:
    """What to install for a command of `alexnet`; raises `error` again where no extra brings it."""
    package = str(error.name).split(".")[0]
    if package not in EXTRAS:
        raise error
    extra = _OF_COMMANDS.get(command, EXTRAS[package])
    return f"alexnet {command} needs {package}: pip install 'alexnet-dali[{extra}]'"
