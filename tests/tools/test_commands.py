"""Every command answers --help, and every import comes with the install."""

import ast
import importlib
import re
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from alexnet_dali.tools import __main__ as alexnet
from alexnet_dali.tools.extras import EXTRAS, needed
from alexnet_dali.tools.paper import figures

ROOT = Path(__file__).parents[2]
ROOMS = ("pipeline", "model", "train", "tools")
TOOLS = ROOT / "tools"


def module(path):
    """The module that `python -m` runs for this file."""
    words = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(words).removesuffix(".__main__")


FILES = {module(path): path for path in TOOLS.rglob("*.py") if 'command_line("' in path.read_text()}
BY_MODULE = {
    f"tools.{module}".removesuffix(".__main__"): name
    for name, (module, _) in alexnet.COMMANDS.items()
}


def test_every_command_has_a_name():
    """But for four that only developers of this project need."""
    developers = {f"tools.bench.{name}" for name in ("cost_model", "exact", "golden", "loop")}
    assert FILES.keys() == BY_MODULE.keys() - {"tools."} | developers


def test_alexnet_lists_its_commands_and_knows_what_was_meant(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alexnet"])
    alexnet.main()
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in ("prep", "train", "evaluate", "predict"))
    monkeypatch.setattr(sys, "argv", ["alexnet", "predicts", "--views", "10"])
    with pytest.raises(SystemExit) as ended:
        alexnet.main()
    assert ended.value.code == 2
    assert "predicts is no command of alexnet; did you mean predict?" in capsys.readouterr().err


def test_ctrl_c_is_quiet_while_a_command_is_imported(monkeypatch):
    """A job in the background of a shell, which ignores it, goes on ignoring it."""
    found = []

    def import_module(name):
        found.append(signal.getsignal(signal.SIGINT))
        raise SystemExit

    monkeypatch.setattr(alexnet, "import_module", import_module)
    monkeypatch.setattr(sys, "argv", ["alexnet", "predict"])
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            with pytest.raises(SystemExit):
                alexnet.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.SIG_DFL, signal.SIG_IGN]


def test_alexnet_passes_arguments_and_the_exit_status_on(monkeypatch, capsys):
    for command in (["train", "nowhere.yaml"], ["predict", "nowhere.yaml", "picture.jpg"]):
        monkeypatch.setattr(sys, "argv", ["alexnet", *command])
        with pytest.raises(SystemExit) as ended:
            alexnet.main()
        assert ended.value.code == 2 and "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("command", FILES)
def test_help_says_what_a_command_does(command, capsys):
    path = FILES[command].relative_to(ROOT).with_suffix("")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(".".join(["alexnet_dali", *path.parts])).main(["--help"])
    printed = capsys.readouterr().out
    name = BY_MODULE.get(command)
    usage = f"alexnet {name}" if name else f"python -m alexnet_dali.{command}"
    assert ended.value.code == 0 and f"usage: {usage}" in printed
    assert "%%" not in printed and len(printed) > 200


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
        [sys.executable, "-m", "train", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.startswith("usage:"), result.stderr


def test_a_checkout_that_is_not_what_is_installed_stops(tmp_path):
    """In a copy of the checkout, its own code would run mixed with what is installed."""
    for name in ("tools", "train"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["-m", "train"], ["-m", "tools.report"], ["tools/prep_imagenet.py"]):
        result = subprocess.run(
            [sys.executable, *command, "--help"], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 2 and not result.stdout
        (line,) = result.stderr.splitlines()
        assert f"the code of {tmp_path} is not what is installed" in line
        assert "pip install -e ." in line


def requirements(section=None):
    """The names of distributions in setup.cfg, without versions; extras of our own are resolved."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    text = config["options"]["install_requires"] if section is None else extras[section]
    found = set()
    for line in filter(None, text.splitlines()):
        name, own = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?(?:[<>=].*)?", line).groups()
        if name == "alexnet-dali":
            found |= {name for extra in own.split(",") for name in requirements(extra)}
        else:
            found.add(name.lower())
    return found


PROVIDED_BY = {
    "nvidia": "nvidia-dali-cuda120",
    "cv2": "opencv-python-headless",
    "torchvision": "torchvision",
    "pillow_heif": "pillow-heif",
    "spdl": "spdl",
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
    own = {"alexnet_dali", "tests"}
    known = installed()
    for name in sorted(set(imports(path)) - own - set(sys.stdlib_module_names)):
        yield PROVIDED_BY.get(name) or next(iter(known.get(name, [name]))).lower()


NEEDED_EXTRAS = {
    "pipeline/decode.py": "heic",
    "pipeline/prepare/hubs/parquet.py": "parquet",
    "tools/bench/baselines.py": "bench",
    "tools/bench/feeding.py": "bench",
    "tools/bench/host_driver.py": "bench",
    "tools/bench/scale.py": "bench",
    "tools/export/onnx_graph.py": "export",
    "tools/export/weights.py": "export",
    "tools/import_weights/exported.py": "export",
    "tools/import_weights/onnx_file.py": "export",
    "tools/faults/kills.py": "bench",
    "tools/faults/preparations.py": "bench",
    "tools/faults/runs.py": "bench",
    "tools/paper/ablate.py": "plots",
    "tools/paper/binary_codes.py": "search",
    "tools/paper/curves.py": "plots",
    "tools/paper/drawing.py": "plots",
    "tools/paper/figures.py": "plots",
    "tools/paper/neighbors.py": "plots",
    "tools/predict/drawing.py": "plots",
    "tools/report/__main__.py": "plots",
    "tools/report/charts.py": "plots",
    "tools/show_batch.py": "plots",
}
"""Files that import what a plain install lacks, and the extra that brings it."""


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_comes_with_the_install(room):
    for path in (ROOT / room).rglob("*.py"):
        name = str(path.relative_to(ROOT))
        missing = set(distributions(path)) - requirements()
        if name == "tools/bench/baselines.py":
            missing.discard("ffcv")  # it needs libraries of C++, too
        extra = NEEDED_EXTRAS.get(name)
        lacking = missing - requirements(extra) if extra else missing
        assert not lacking, f"{name} imports {lacking}, which setup.cfg does not bring"
        assert extra in (None, "heic") or missing, f"{name} needs no extra any more"


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_a_command_asks_for_brings_the_package(package):
    distribution = {"faiss": "faiss-cpu"}.get(package, package)
    assert distribution in requirements(EXTRAS[package]) - requirements()


def test_all_brings_every_package_that_a_command_asks_for():
    assert set().union(*map(requirements, EXTRAS.values())) <= requirements("all") | {
        "opencv-python-headless",
        "spdl",
        "torchvision",
    }


WITHOUT_EXTRAS = """
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in {lacking!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Lacking())
from alexnet_dali.tools.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "command, package, extra",
    [
        ("report runs/x --out x.html", "jinja2", "plots"),
        ("demo", "jinja2", "plots"),
        ("show-batch runs/x --step 1 --out x.png", "matplotlib", "plots"),
        ("predict runs/x x.jpg --figure x.png", "matplotlib", "plots"),
        ("figures kernels runs/x --out x.png", "matplotlib", "plots"),
        ("ablate --data x", "matplotlib", "plots"),
        ("bench step", "psutil", "bench"),
        ("faults", "psutil", "bench"),
    ],
)
def test_a_command_asks_for_the_extra_that_it_lacks(command, package, extra, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS.format(lacking=set(EXTRAS)), *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    name = command.split()[0]
    expected = f"error: alexnet {name} needs {package}: pip install 'alexnet-dali[{extra}]'\n"
    assert (result.returncode, result.stderr) == (2, expected)


@pytest.mark.parametrize("name", ["report", "show-batch", "figures", "ablate", "bench", "faults"])
def test_help_says_what_a_command_does_and_which_extra_it_lacks(name, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS.format(lacking=set(EXTRAS)), name, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    first, *_, last = result.stdout.splitlines()
    assert first.endswith((".", ":")) and f"alexnet {name} needs" in last


def test_another_missing_module_is_no_extra():
    """Its traceback is a bug report."""
    error = ModuleNotFoundError("No module named 'own'", name="own")
    with pytest.raises(ModuleNotFoundError, match="own"):
        needed("predict", error)


def test_the_tests_need_only_the_dev_extra():
    for path in (ROOT / "tests").rglob("*.py"):
        if path.parent.name == "clients":  # has its own extra, and make clients
            continue
        # Tests that import Triton are skipped without it
        missing = set(distributions(path)) - requirements() - requirements("dev") - {"triton"}
        assert not missing, f"{path.relative_to(ROOT)} imports {missing}"


def test_a_missing_requirement_is_detected(tmp_path):
    (tmp_path / "new.py").write_text(
        "import json\nfrom lightning.pytorch import Trainer\nfrom alexnet_dali import model\n"
    )
    assert set(distributions(tmp_path / "new.py")) - requirements() == {"lightning"}
