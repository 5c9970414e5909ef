"""Every command answers --help, and every import comes with the install."""

import ast
import importlib
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from alexnet_dali.tools.paper import figures

ROOT = Path(__file__).parents[2]
ROOMS = ("pipeline", "model", "train", "tools")
TOOLS = ROOT / "tools"


def module(path):
    """The module that `python -m` runs for this file."""
    words = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(words).removesuffix(".__main__")


COMMANDS = {
    module(path): path for path in TOOLS.rglob("*.py") if 'command_line("' in path.read_text()
}
MOVED = {module(path): path for path in TOOLS.rglob("*.py") if "\nmoved(" in path.read_text()}


def test_the_commands_have_the_names_that_users_know():
    tools = "demo evaluate export gpu_check make_images predict prep_imagenet report show_batch"
    beside = (
        "bench",
        "faults",
        "paper.ablate",
        "paper.figures",
        "bench.cost_model",
        "bench.golden",
        "bench.loop",
    )
    assert {f"tools.{name}" for name in (*tools.split(), *beside)} == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command, capsys):
    path = COMMANDS[command].relative_to(ROOT).with_suffix("")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(".".join(path.parts)).main(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and f"usage: python -m {command}" in printed
    assert "%%" not in printed and len(printed) > 200


def test_moved_commands_print_their_new_names(capsys):
    assert {
        f"tools.{name}" for name in ("ablate", "figures", "golden", "cost_model")
    } == MOVED.keys()
    for command in MOVED:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(command)
        assert ended.value.code == 2
        new = re.search(r"this command is now: python -m (\S+)", capsys.readouterr().err)[1]
        assert new in COMMANDS


@pytest.mark.parametrize(
    "figure", ["kernels", "curves", "predictions", "neighbors", "codes", "relu-vs-tanh"]
)
def test_every_figure_has_help_of_its_own(figure, capsys):
    with pytest.raises(SystemExit) as ended:
        figures.main([figure, "--help"])
    assert ended.value.code == 0 and "--out FILE.png" in capsys.readouterr().out


def test_training_answers_help_from_a_shell():
    """Preparing is called from one in tests/prepare/test_prep.py: as a script, by its path."""
    result = subprocess.run(
        [sys.executable, "-m", "alexnet_dali.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout.startswith("usage:"), result.stderr


def requirements(section):
    """The names of distributions in setup.cfg, without versions and extras."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = (
        config["options"]["install_requires"]
        if section is None
        else config["options.extras_require"][section]
    )
    return {line.split("[")[0].split(">")[0].strip().lower() for line in text.split()}


PROVIDED_BY = {
    "nvidia": "nvidia-dali-cuda120",
    "cv2": "opencv-python-headless",
    "torchvision": "torchvision",
    "pillow_heif": "pillow-heif",
}
"""Imports whose distribution packages_distributions can't tell.

Several distributions share a namespace, and some packages may not be installed.
"""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (name.split(".")[0] for name in names)


installed = cache(packages_distributions)


def distributions(path):
    """The distributions that a file imports from."""
    own = {*ROOMS, "tests"}
    known = installed()
    for name in sorted(set(imports(path)) - own - set(sys.stdlib_module_names)):
        yield PROVIDED_BY.get(name) or next(iter(known.get(name, [name]))).lower()


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_comes_with_the_install(room):
    """Some files also import packages of an extra; without it they say what is missing."""
    extras = {
        "baselines.py": "bench",
        "parquet.py": "parquet",
        "decode.py": "heic",
        "weights.py": "export",
        "onnx_graph.py": "export",
    }
    for path in (ROOT / room).rglob("*.py"):
        extra = extras.get(path.name)
        allowed = requirements(None) | (requirements(extra) if extra else set())
        allowed |= (
            {"ffcv"} if path.name == "baselines.py" else set()
        )  # it needs libraries of C++, too
        missing = set(distributions(path)) - allowed
        assert not missing, (
            f"{path.relative_to(ROOT)} imports {missing}, which setup.cfg does not bring"
        )


def test_the_tests_need_only_the_dev_extra():
    for path in (ROOT / "tests").rglob("*.py"):
        # Tests that import Triton are skipped without it
        missing = set(distributions(path)) - requirements(None) - requirements("dev") - {"triton"}
        assert not missing, f"{path.relative_to(ROOT)} imports {missing}"


def test_a_missing_requirement_is_detected(tmp_path):
    (tmp_path / "new.py").write_text(
        "import json\nfrom lightning.pytorch import Trainer\nfrom model import alexnet\n"
    )
    assert set(distributions(tmp_path / "new.py")) - requirements(None) == {"lightning"}
