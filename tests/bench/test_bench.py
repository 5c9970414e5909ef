import json
from dataclasses import replace

import pytest
import torch

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.local_response_norm import local_response_norm
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.bench import __main__ as bench
from alexnet_dali.tools.bench import steps
from alexnet_dali.tools.bench.feeding import Feeding, baselines, stores
from alexnet_dali.tools.bench.steps import (
    Baseline,
    Work,
    plain_network,
    step_baselines,
    train_baselines,
)
from tests.processes import run_at_once
from tests.tape import TapeRecorder


def test_the_plain_network_has_the_same_parameters_as_ours():
    plain, ours = plain_network(), AlexNet(ModelConfig(), 1000, 224).full_state()
    found = sorted(tuple(parameter.shape) for parameter in plain.parameters())
    assert found == sorted(tuple(value.shape) for value in ours.values())
    assert plain(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_medians_over_the_rounds_are_written_and_drawn(monkeypatch, tmp_path, capsys):
    speeds = iter([10.0, 100.0, 30.0, 300.0, 20.0, 200.0])
    names = ("slow-fp32", "fast-fp32", "peak-fp32", "peak-bf16")
    monkeypatch.setattr(
        bench,
        "step_baselines",
        lambda num_gpus: {name: Baseline(1, None, "fp32") for name in names},
    )
    monkeypatch.setattr(bench, "flops_per_image", lambda: 2e9)

    def measure(name, command):
        return {"gflops": 800.0} if name.startswith("peak") else {"images_per_second": next(speeds)}

    monkeypatch.setattr(bench, "_measure", measure)
    bench.main(["step", "--device", "cpu", "--json", str(tmp_path / "b.json")])
    report = json.loads((tmp_path / "b.json").read_text())
    slow = {
        "name": "slow-fp32",
        "images_per_second": 20.0,
        "share_of_peak": 0.05,
        "times_plain_fp32": 1.0,
    }
    fast = {
        "name": "fast-fp32",
        "images_per_second": 200.0,
        "share_of_peak": 0.5,
        "times_plain_fp32": 10.0,
    }
    assert report["rows"] == [slow, fast] and report["machine"]["torch"] == torch.__version__
    assert "| fast" in capsys.readouterr().out


@pytest.fixture
def at_once(monkeypatch):
    """The baselines' processes need not import anything."""
    monkeypatch.setattr(bench.subprocess, "run", run_at_once)


def test_feeding_contenders_run_on_real_files_and_are_compared_with_decoding(
    at_once, prepared, tmp_path, capsys
):
    arguments = [
        "pipeline",
        "--data",
        str(prepared),
        "--rounds",
        "1",
        "--steps",
        "40",
        "--batch-size",
        "8",
    ]
    bench.main([*arguments, "--device", "cpu", "--json", str(tmp_path / "b.json")])
    report = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows.keys() >= {"decode", "naive", "ours", "ours-store", "ours-shards"}
    assert all(row["images_per_second"] > 0 and row["peak_rss_mb"] > 50 for row in rows.values())
    assert (
        rows["decode"]["cpu_ratio_to_decode"] == 1 and report["verdict"] in capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["dali-example", "ours"])
def test_contenders_of_the_resnet_recipe_give_what_a_resnet_expects(name, dataset):
    work = Feeding(dataset, torch.device("cpu"), 8, 1, "resnet")
    batch = next(baselines("cpu", "resnet")[name](work))
    images = batch if isinstance(batch, torch.Tensor) else batch[0]
    assert images.shape == (8, 3, 224, 224) and images.dtype == torch.float32
    assert images.mean().abs() < 1 and 0.3 < images.std() < 2


def test_scale_measures_a_list_as_long_as_imagenets(at_once, prepared, tmp_path):
    arguments = [
        "scale",
        "--data",
        str(prepared),
        "--rounds",
        "1",
        "--steps",
        "2",
        "--batch-size",
        "8",
    ]
    bench.main([*arguments, "--json", str(tmp_path / "b.json")])
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["first_batch_s"] > 0 and row["memory_mb"] > 60  # the paths alone take that


def test_flops_are_three_forward_passes_less_the_gradient_of_the_images():
    """Counted by hand: a multiplication and an addition for each weight that an output reads."""
    macs = [
        55**2 * 96 * 363,
        27**2 * 256 * 48 * 25,
        13**2 * 384 * 256 * 9,
        13**2 * 384 * 192 * 9,
        13**2 * 256 * 192 * 9,
    ]
    macs += [9216 * 4096, 4096 * 4096, 4096 * 1000]
    assert bench.flops_per_image() == 2 * (3 * sum(macs) - macs[0])


def test_a_dataset_of_resized_images_is_refused_before_any_work(dataset, monkeypatch, tmp_path):
    resized = replace(dataset, train=replace(dataset.train, sizes=dataset.train.sizes * 0 + 256))
    monkeypatch.setattr(Dataset, "open", lambda folder: resized)
    with pytest.raises(ValueError, match="expected one prepared from loose originals"):
        stores(tmp_path / "data", tmp_path, ["ours"])
    assert not any(tmp_path.iterdir())


def test_a_captured_step_runs_and_is_replayed(monkeypatch):
    """On few images, and on a tape for a graph."""
    recorder = TapeRecorder({})
    monkeypatch.setattr(steps, "CudaGraph", lambda device: recorder)
    monkeypatch.setattr(steps, "compiled_local_response_norm", lambda device: local_response_norm)
    measured = steps.ours(Work("fp32", "cpu", 2, 1, ""), captured=True)
    assert measured["images_per_second"] > 0
    assert (recorder.asides, recorder.records, recorder.replays) == (3, 1, 3)


def test_an_old_gpu_is_measured_in_what_it_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, precisions in (((7, 5), {"fp32"}), ((8, 0), {"fp32", "tf32", "bf16"})):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, found=capability: found
        )
        for contenders_of in (step_baselines, train_baselines):
            found = {baseline.precision for baseline in contenders_of(1).values()}
            assert found == precisions - ({"tf32"} if contenders_of is train_baselines else set())
