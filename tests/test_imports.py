import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "pipeline": {"pipeline"},
    "model": {"model"},
    "train": {"train", "pipeline", "model"},
    "tools": {"tools", "train", "pipeline", "model"},
}


def imported(path):
    """What a file imports: `alexnet_dali.pipeline.crops`, `alexnet_dali.train.optim`, `torch`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path):
    """The packages of ours that a file imports from."""
    names = [name.split(".") for name in imported(path)]
    assert not {name[0] for name in names} & ALLOWED.keys(), f"{path} imports without alexnet_dali"
    return {name[1] for name in names if name[0] == "alexnet_dali"}


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    """The order is tools -> train -> {pipeline, model}.

    model imports nothing for files, DALI, YAML or the environment.
    """
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert packages(path) <= ALLOWED[room], path
        if room == "model":
            others = {name.split(".")[0] for name in imported(path)}
            assert not others & {"nvidia", "yaml", "os", "pathlib", "numpy"}, path


def test_dali_graphs_torchruns_environment_and_tensorboard_have_one_file_each():
    """The exceptions: the benchmark builds baselines' graphs, and cuts ours.

    The loader shares the machine's cores among ranks, with train or without.
    """
    sources = {
        path.relative_to(ROOT): path.read_text()
        for room in ALLOWED
        for path in (ROOT / room).rglob("*.py")
    }
    assert sorted(str(path) for path, text in sources.items() if "import fn" in text) == [
        "pipeline/graph.py",
        "tools/bench/baselines.py",
        "tools/bench/host_driver.py",
    ]
    assert [str(path) for path, text in sources.items() if "WORLD_SIZE" in text] == [
        "pipeline/ranks.py",
        "train/parallel/ranks.py",
    ]
    assert [str(path) for path, text in sources.items() if "SummaryWriter" in text] == [
        "train/record/metrics.py"
    ]


def test_rooms_of_the_pipeline_import_one_way():
    """prepare -> all others; reading -> the loader's parts; system -> nothing of ours."""
    prefix = "alexnet_dali.pipeline."
    for path in (ROOT / "pipeline").rglob("*.py"):
        room = path.relative_to(ROOT / "pipeline").parts[0]
        ours = {name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix)}
        if room != "prepare":
            assert not {name for name in ours if name.startswith("prepare")}, path
        if room == "system":
            assert {name.split(".")[0] for name in ours} <= {"system"}, path


# What each file of train/ may import of train/: a folder stands for its files.
WINGS = {"parallel", "checkpoints", "record"}
IN_TRAIN = {
    "optim": set(),
    "capture": set(),
    "evaluation": set(),
    "options": set(),
    "config": {"optim", "options"},
    "parallel": {"parallel"},
    "record": {"record", "parallel"},
    "checkpoints": {"checkpoints", "parallel", "config", "optim"},
    "data": {"config", "parallel"},
    "networks": {"checkpoints", "config", "data", "evaluation", "parallel"},
    "trainer": {"capture", "config", "data", "evaluation", *WINGS},
    "dry_run": {"trainer", "checkpoints"},
    "__main__": {"trainer", "dry_run", "checkpoints", "config", "parallel"},
    "__init__": set(),
}
MOST_IMPORTS = 45
"""Between files of train/. More, and what a file needs is better handed to it, or files are one."""

KNOW_THE_WHOLE_CONFIG = {"config", "__main__", "trainer", "checkpoints/run_folder"}
"""run_folder keeps a run's config and compares it with that of a rerun."""


def files_of_train():
    """Each file's path below train/, without .py, and what it imports of train/, likewise."""
    folder = ROOT / "train"
    paths = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.py")
    }
    prefix = "alexnet_dali.train."
    for name, path in paths.items():
        found = set()
        for one in imported(path):
            words = one.removeprefix(prefix).split(".") if one.startswith(prefix) else []
            whole, owner = "/".join(words), "/".join(words[:-1])
            found |= {whole if whole in paths else owner} if words else set()
        yield name, path, found


def test_imports_between_files_of_train_are_few():
    imports = [(name, one) for name, _, found in files_of_train() for one in sorted(found)]
    assert 20 < len(imports) <= MOST_IMPORTS, imports


def test_the_wings_of_train_import_nothing_above_them():
    for name, _, found in files_of_train():
        room = name.split("/")[0]
        above = {one.split("/")[0] for one in found} - IN_TRAIN[room]
        assert not above, f"train/{name}.py imports {above}"


def test_few_files_know_the_whole_config():
    """The others get the sections that they read."""
    for name, path, _ in files_of_train():
        names = {
            word
            for node in ast.walk(ast.parse(path.read_text()))
            for word in (getattr(node, "id", None), getattr(node, "name", None))
        }
        assert "Config" not in names or name in KNOW_THE_WHOLE_CONFIG, name


STATE = """
import faulthandler, gc, importlib, json, os, resource, signal, sys, threading, warnings
import PIL.Image, PIL.PngImagePlugin, torch
{first}

def state():
    PIL.Image.preinit()
    return {{
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "pillow": [PIL.Image.MAX_IMAGE_PIXELS, PIL.PngImagePlugin.MAX_TEXT_CHUNK],
        "formats": sorted(PIL.Image.OPEN),
        "warnings": list(map(str, warnings.filters)),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "running": [thread.name for thread in threading.enumerate()],
        "environment": dict(os.environ),
        "precision": torch.get_float32_matmul_precision(),
        "hooks": [str(sys.excepthook), faulthandler.is_enabled(), len(sys.meta_path)],
        "path": sys.path,
    }}

before = state()
for name in {names}:
    importlib.import_module(name)
{last}
after = state()
print(json.dumps({{key: [before[key], after[key]] for key in before if before[key] != after[key]}}))
"""
THIRD_PARTY = """import faiss, jinja2, matplotlib.figure, nvidia.dali.fn, nvidia.dali.pipeline
import onnxruntime, onnxscript, scipy.optimize, torch.utils.tensorboard, tqdm
"""
"""They are imported first: what they change is not ours to answer for."""


def changed_by_importing(names, last=""):
    code = STATE.format(first=THIRD_PARTY, names=names, last=last)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_importing_changes_nothing_for_others():
    """Pillow's limits, that of open files, signals, garbage collection, warnings, threads, ..."""
    names = [
        ".".join(("alexnet_dali", *path.relative_to(ROOT).with_suffix("").parts))
        for room in ALLOWED
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name not in ("__init__.py", "checkout.py")
    ]
    assert len(names) > 100
    assert changed_by_importing(names) == {}


def test_a_change_by_importing_is_seen():
    last = "PIL.Image.MAX_IMAGE_PIXELS = None; gc.disable(); os.environ['A_NAME'] = 'x'"
    assert changed_by_importing([], last).keys() == {"gc", "pillow", "environment"}


PUBLIC = {
    "pipeline": {"DataLoader", "Dataset", "Pixels", "RandomCrop", "RandomResizedCrop"},
    "model": {"AlexNet", "Columns", "ModelConfig"},
    "train": {"open_run"},
}


@pytest.mark.parametrize("package", PUBLIC)
def test_packages_list_their_public_names_and_import_them_late(package):
    """A fresh process: `dir` alone must not import DALI or torch."""
    code = (
        f"import sys, alexnet_dali.{package} as package\n"
        "names = dir(package)\n"
        "assert not {'torch', 'nvidia.dali'} & set(sys.modules)\n"
        "assert [getattr(package, name) for name in names] and names == package.__all__\n"
        "print(*names)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) >= PUBLIC[package]
    module = importlib.import_module(f"alexnet_dali.{package}")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = module.Nothing
