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
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    """The order is tools -> train -> {pipeline, model}.

    model imports nothing for files, DALI, YAML or the environment.
    """
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        rooms = set(imported(path)) & ALLOWED.keys()
        assert rooms <= ALLOWED[room], path
        if room == "model":
            assert not set(imported(path)) & {"nvidia", "yaml", "os", "pathlib", "numpy"}, path


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
        "tools/bench/host_driver.py",
        "tools/bench/baselines.py",
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
        assert "alexnet_dali.pipeline.prepare" not in path.read_text().replace(
            "pipeline.prepare.store`", ""
        ), path
