"""The command `alexnet`: everything that people type, by name."""

import ast
import difflib
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from alexnet_dali.pipeline.system.surroundings import read_names_as_utf8
from alexnet_dali.tools.extras import needed

COMMANDS = {
    "prep": ("prep_imagenet", "prepare images: check every file, list them, take statistics"),
    "subset": ("subset", "a prepared folder with some of another's classes or images"),
    "show-batch": ("show_batch", "draw what training sees"),
    "train": ("", "train on one rank; on two: torchrun --nproc_per_node=2 -m alexnet_dali.train"),
    "evaluate": ("evaluate", "error of one or several runs on validation images"),
    "predict": ("predict.__main__", "what pictures show"),
    "report": ("report.__main__", "a run in one page"),
    "export": ("export.__main__", "weights for other programs: safetensors, ONNX, a plain module"),
    "import-weights": ("import_weights.__main__", "a run of weights that others have trained"),
    "figures": ("paper.figures", "the paper's figures"),
    "ablate": ("paper.ablate", "the paper's comparisons: one thing changed at a time"),
    "bench": ("bench.__main__", "how fast it is, and where the time goes"),
    "demo": ("demo", "all of it in a few minutes, on generated images or yours"),
    "make-images": ("make_images", "generate images of ten classes"),
    "gpu-check": ("gpu_check", "tests and benchmarks on a machine with GPUs"),
    "faults": ("faults.__main__", "break runs in every known way, and count what is lost"),
}
"""The module of each command, and what it does."""


def main() -> None:
    """Run `alexnet COMMAND ...`."""
    read_names_as_utf8()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"error: {name} is no command of alexnet{hint}\n{_usage()}", file=sys.stderr)
        sys.exit(2)
    # No traceback where Ctrl-C interrupts an import; the command changes that once it runs.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if name == "train":
        sys.exit(import_module("alexnet_dali.train.__main__").main(arguments))
    path = f"alexnet_dali.tools.{COMMANDS[name][0]}"
    try:
        import_module("alexnet_dali.tools.cli").run(import_module(path).main, arguments)
    except ModuleNotFoundError as error:
        lacking = needed(name, error)
        if {"-h", "--help"} & set(arguments):
            print(f"{_description(path)}\n\nFor its options: {lacking}")
            return
        print(f"error: {lacking}", file=sys.stderr)
        sys.exit(2)


def _description(path: str) -> str:
    """What a module says of itself, without importing it."""
    found = find_spec(path)
    assert found and found.origin
    return ast.get_docstring(ast.parse(Path(found.origin).read_text())) or ""


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: alexnet COMMAND ...", "", *lines, "", "alexnet COMMAND --help"])


if __name__ == "__main__":
    main()
