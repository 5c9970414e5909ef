"""Emulated machines with GPUs: CUDA's rule about forks, and a choice of 1, 2 or 8 GPUs.

machine/sitecustomize.py emulates them. The ordinary tests run on such a machine, too:

    REHEARSE_GPUS=8 PYTHONPATH=tests/rehearsal/machine make check
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from alexnet_dali.tools import demo, gpu_check
from alexnet_dali.tools.bench import __main__ as bench
from alexnet_dali.tools.bench import host
from alexnet_dali.tools.bench.feeding import NEEDS, baselines
from alexnet_dali.tools.bench.steps import step_baselines, train_baselines
from alexnet_dali.train.parallel import devices as gpus
from alexnet_dali.train.parallel import ranks as distributed
from tests.images import write_class_folders
from tests.recipes import TINY

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "tests/rehearsal/machine"


def on_a_machine(command, **emulated):
    """Run a command on an emulated machine; returns its output and exit status."""
    environment = os.environ | {"PYTHONPATH": str(MACHINE)} | emulated
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders of sound images."""
    folder = tmp_path_factory.mktemp("images")
    write_class_folders(folder, {"a": 40, "b": 40})
    return folder


def prep(images, out):
    return [
        "-m",
        "alexnet_dali.tools",
        "prep",
        "--train",
        images,
        "--hold-out",
        "0.2",
        "--out",
        out,
    ]


@pytest.mark.slow
def test_preparing_rejects_no_file_under_the_fork_rule(images, tmp_path):
    result = on_a_machine(prep(images, tmp_path / "out"), REHEARSE_FORK_RULE="1")
    assert result.returncode == 0 and "64 training and 16 validation images" in result.stdout, (
        result.stderr
    )
    assert "0 files rejected" in result.stdout


@pytest.mark.slow
def test_a_decoder_that_asks_for_gpus_before_the_fork_is_detected(images, tmp_path):
    """DALI's dynamic mode does so on import. No image is blamed for the failure."""
    result = on_a_machine(
        prep(images, tmp_path / "out"), REHEARSE_FORK_RULE="1", REHEARSE_DYNAMIC="1"
    )
    assert result.returncode == 2 and "cudaErrorInitializationError" in result.stderr
    assert "the GPU or its driver failed" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


COMPARISON = """
import sys
from pathlib import Path
from alexnet_dali.tools.paper import runs
from alexnet_dali.tools.paper.relu_vs_tanh import Curve, Settings, train
if __name__ == "__main__":
    settings = Settings(sys.argv[1], Path(sys.argv[2]), 1, 1, 1, ("--config", sys.argv[3]))
    with runs.workers(1) as pool:
        assert len(pool.submit(train, Curve("2012", "relu"), 0.001, 0, settings, 1).result()) == 1
"""


@pytest.mark.slow
def test_every_command_that_starts_processes_works_under_the_fork_rule(images, tmp_path):
    """Each kind of process is started once.

    They are decoding workers, a benchmark's process and its child, ranks, and the trainings of a
    comparison.
    """
    prepared, recipe = tmp_path / "prepared", tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    commands = [
        [
            "-m",
            "alexnet_dali.tools",
            "bench",
            "scale",
            "--data",
            prepared,
            "--rounds",
            "1",
            "--steps",
            "2",
            "--batch-size",
            "8",
        ],
        [
            *(
                "-m",
                "torch.distributed.run",
                "--nproc_per_node=2",
                "-m",
                "train",
                recipe,
                "--data.root",
                prepared,
            ),
            *("--run.dir", tmp_path / "run", "--run.max_steps", "2"),
        ],
        ["-c", COMPARISON, prepared, tmp_path / "runs", recipe],
    ]
    assert on_a_machine(prep(images, prepared), REHEARSE_FORK_RULE="1").returncode == 0
    with ThreadPoolExecutor() as pool:
        for command, result in zip(
            commands, pool.map(partial(on_a_machine, REHEARSE_FORK_RULE="1"), commands)
        ):
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_an_ordinary_test_that_takes_a_gpu_is_detected(prepared, tmp_path):
    (tmp_path / "test_greedy.py").write_text(
        "from alexnet_dali.train.parallel.ranks import join\n\n"
        "def test_greedy():\n    with join('auto'):\n        pass\n"
    )
    result = on_a_machine(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "test_greedy.py"],
        REHEARSE_GPUS="2",
    )
    assert result.returncode == 1 and "a GPU was taken" in result.stdout


ORDINARY = [
    "tests/paper/test_figures.py",
    "tests/bench/test_golden.py",
    "tests/bench/test_bench.py",
    "tests/train/test_train.py",
]
QUICK = "drawn or medians or golden or predictions or bad_input or claims_nothing"


@pytest.mark.slow
def test_ordinary_tests_that_choose_a_device_pass_and_take_no_gpu():
    """These tests run commands whose device is `auto` unless they are told.

    All tests would take minutes.
    """
    command = [
        "-m",
        "pytest",
        "-q",
        "-x",
        "-m",
        "not gpu",
        "-p",
        "no:cacheprovider",
        "-k",
        QUICK,
        *ORDINARY,
    ]
    result = on_a_machine(command, REHEARSE_GPUS="8")
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.fixture(params=[1, 2, 8])
def num_gpus(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "rehearsed GPU")
    return request.param


def ranks_of(command):
    """The number of ranks that a command starts on this machine."""
    counts = [
        int(word.split("=")[1])
        for word in map(str, command)
        if word.startswith("--nproc_per_node=")
    ]
    return counts[0] if counts else 1


def test_the_demo_asks_for_no_more_gpus_than_there_are(num_gpus, monkeypatch):
    typed = []
    monkeypatch.setattr(demo, "_command", lambda *words: None)
    monkeypatch.setattr(demo, "_python", lambda *words: typed.append(words))
    monkeypatch.setattr(demo, "_two_pictures", lambda prepared: [])
    demo.main([])
    (training,) = typed
    assert ranks_of(training) == min(2, num_gpus)


def test_gpu_check_asks_for_no_more_gpus_than_there_are_and_fills_every_table(
    num_gpus, prepared, monkeypatch, tmp_path
):
    """Every command is built as it would be run; only the measurements are made up."""
    started = []

    def measure(name, command):
        arguments, _ = command
        started.append((name, ranks_of(arguments), arguments))
        figures = {"images_per_second": 100.0, "cpu_ms_per_image": 1.0, "data_wait_fraction": 0.0}
        if "host_driver" in arguments[0]:
            figures |= {"main_ms": 1.0, "threads_ms": 2.0, "operations": 160}
            figures["batch_size"] = int(arguments[-1])
        return {"gflops": 1000.0} if name.startswith("peak") else figures

    monkeypatch.setattr(bench, "_measure", measure)
    monkeypatch.setattr(
        bench, "stores", lambda data, folder, names: dict.fromkeys(names, str(data))
    )
    reports = {}
    commands = gpu_check.commands(gpu_check.PARTS, [str(prepared)], 1, tmp_path)
    for name, (command, report) in commands.items():
        bench.main(command[3:])
        reports[name] = gpu_check.json.loads(report.read_text())
        assert reports[name]["rows"] and reports[name]["rounds"] == 1
        assert reports[name]["device"] == ("cpu" if name == "host" else "cuda")
    assert {"step", "pipeline", "train", "host"} == reports.keys()
    assert all(ranks <= num_gpus for _, ranks, _ in started), "ranks <= num_gpus"
    assert all(
        ("cuda" in arguments) != ("host_driver" in arguments[0]) for *_, arguments in started
    )
    measured = {name for name, _, _ in started}
    precisions = {"fp32", "tf32", "bf16"}
    assert measured >= {
        f"{name}{how}-{precision}"
        for name in ("plain", "one-process")
        for how in ("", "-captured")
        for precision in precisions
    }
    assert measured >= {"ours-engine-65", "ours-engine-100"}
    assert measured >= {
        f"{name}-data{how}-{precision}"
        for name in ("with", "without")
        for how in ("", "-captured")
        for precision in ("fp32", "bf16")
    }
    for name in ("columns-bf16", "columns-captured-bf16"):
        assert (name in measured) == (num_gpus > 1)
    tests = [gpu_check.Test("a test", "passed", "")]
    page = gpu_check.summary(tests, reports, {})
    assert page.count("rehearsed GPU") >= 1 and "| a test | passed" in page
    assert measured >= {"ours-cpu-decoder", "ours-cpu-decoder-store", "ours-cpu-decoder-shards"}
    expected = gpu_check.compare(reports)
    assert len(expected) == len(gpu_check.EXPECTATIONS) - (num_gpus == 1)


def test_every_expectation_belongs_to_a_measured_figure(prepared):
    names = {
        "host": host.commands([str(prepared)], host.BATCH_SIZES),
        "step": step_baselines(8),
        "train": train_baselines(8),
        "pipeline": baselines("cuda"),
    }
    for one in gpu_check.EXPECTATIONS:
        assert one.row in names[one.benchmark]
    assert set(NEEDS) <= {*baselines("cuda"), *baselines("cuda", "resnet")}


def test_a_contender_for_more_gpus_than_there_are_is_detected(prepared, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "rehearsed GPU")
    monkeypatch.setattr(bench, "train_baselines", lambda num_gpus: train_baselines(2))
    with pytest.raises(AssertionError, match="ranks <= num_gpus"):
        test_gpu_check_asks_for_no_more_gpus_than_there_are_and_fills_every_table(
            1, prepared, monkeypatch, tmp_path
        )


def test_each_rank_takes_its_own_gpu_and_more_ranks_than_gpus_are_refused(num_gpus, monkeypatch):
    monkeypatch.setattr(gpus, "take", lambda number: torch.device("cuda", number))
    for asked in ("auto", "cuda"):
        taken = [distributed._device(asked, rank, num_gpus) for rank in range(num_gpus)]
        assert [device.index for device in taken] == list(range(num_gpus))
        with pytest.raises(
            ValueError, match=f"{num_gpus + 1} ranks run here, but {num_gpus} GPUs were found"
        ):
            distributed._device(asked, 0, num_gpus + 1)
    assert distributed._device("cpu", 0, 1) == torch.device("cpu")


def test_only_the_listed_files_ask_pytorch_for_gpus():
    """`auto` is resolved in train/parallel/ranks.py, for notebooks, and in the benchmark.

    The benchmark tells its processes what it found. The loader asks only if it is told to use one.
    """
    asking = [
        str(path.relative_to(ROOT))
        for room in ("pipeline", "model", "train", "tools")
        for path in (ROOT / room).rglob("*.py")
        if "cuda.device_count" in path.read_text() or "cuda.is_available" in path.read_text()
    ]
    assert sorted(asking) == [
        "pipeline/data_loader.py",
        *("tools/bench/__main__.py", "tools/bench/machine.py", "tools/bench/steps.py"),
        *(
            "tools/demo.py",
            "tools/gpu_check.py",
            "train/networks.py",
            "train/parallel/devices.py",
            "train/parallel/ranks.py",
        ),
    ]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["tests", "step"]),
        (["--data", "a", "b"], ["tests", "step", "pipeline", "train", "host"]),
        (["--data", "a", "--parts", "host", "tests"], ["host", "tests"]),
    ],
)
def test_gpu_check_does_what_its_data_allow_or_the_parts_that_are_asked_for(options, parts):
    assert gpu_check._arguments(options).parts == parts


def test_gpu_check_refuses_parts_that_lack_their_data():
    with pytest.raises(ValueError, match="pipeline: expected --data FOLDER"):
        gpu_check._arguments(["--parts", "step", "pipeline"])
