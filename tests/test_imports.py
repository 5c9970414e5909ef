import ast
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
    """What a file imports: `alexnet_dali.pipeline.files`, `alexnet_dali.train.optim`, `torch`."""
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
        "pipeline/data_loader.py",
        "train/parallel/ranks.py",
    ]
    assert [str(path) for path, text in sources.items() if "SummaryWriter" in text] == [
        "train/record/metrics.py"
    ]


def test_the_pipeline_does_not_import_its_preparation():
    files = list((ROOT / "pipeline").glob("*.py"))
    assert len(files) > 10
    for path in files:
        assert not [name for name in imported(path) if "pipeline.prepare" in name], path


# What each file of train/ may import of train/: a folder stands for its files.
WINGS = {"parallel", "checkpoints", "record"}
IN_TRAIN = {
    "optim": set(),
    "capture": set(),
    "evaluation": set(),
    "spelling": set(),
    "config": {"optim", "spelling"},
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
