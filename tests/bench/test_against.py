"""Two checkouts measured in turn, and what is said of their ratio."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from alexnet_dali.tools import ROOT
from alexnet_dali.tools.bench import __main__ as bench
from alexnet_dali.tools.bench.against import Other, both, interval, packages_of, ratios
from alexnet_dali.tools.bench.feeding import baselines

OTHER = Other(ROOT)


@pytest.mark.parametrize(
    ("count", "low", "confidence"), [(6, 1, 0.9688), (10, 2, 0.9785), (20, 6, 0.9586), (3, 1, 0.75)]
)
def test_the_interval_is_that_of_tables_of_the_sign_test(count, low, confidence):
    values = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert interval(values) == (low, count + 1 - low, pytest.approx(confidence, abs=5e-5))


def test_the_interval_holds_the_median_as_often_as_it_says():
    draws = np.random.default_rng(1).exponential(size=(4000, 12))
    found = [interval(row) for row in draws]
    held = np.mean([low <= np.log(2) <= high for low, high, _ in found])
    assert held == pytest.approx(found[0][2], abs=0.01) and found[0][2] >= 0.95


def made_up(ours, theirs):
    return {
        "ours": [{"images_per_second": one, "batch_size": 6, "zero": 0.0} for one in ours],
        OTHER.name("ours"): [{"images_per_second": one, "batch_size": 6} for one in theirs],
    }


def test_ratios_are_paired_round_by_round():
    # The machine becomes slower from round to round; ours is always 1.1 to 1.2 times as fast
    speeds = np.array([600.0, 500, 400, 300, 200, 100])
    factors = np.array([1.1, 1.2, 1.1, 1.2, 1.1, 1.2])
    (row,) = ratios(made_up(speeds * factors, speeds), OTHER)
    assert (row["name"], row["figure"]) == ("ours", "images_per_second")
    assert row["ratio"] == pytest.approx(1.15) and row["verdict"] == "larger"
    assert (row["low"], row["high"]) == (pytest.approx(1.1), pytest.approx(1.2))
    (row,) = ratios(made_up(speeds, speeds * factors), OTHER)
    assert row["verdict"] == "smaller"


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [([1.5, 1.5, 1.5, 1.5, 1.5, 0.99], "can't tell"), ([1.5] * 5, "can't tell: expected 6 rounds")],
)
def test_what_chance_alone_may_give_is_not_told(factors, verdict):
    (row,) = ratios(made_up(factors, [1.0] * len(factors)), OTHER)
    assert row["verdict"] == verdict


@pytest.mark.parametrize("namespace", [False, True], ids=["before 0.3", "now"])
def test_packages_come_from_the_other_checkout_wherever_python_starts(namespace, tmp_path):
    for room in ("pipeline", "tools/bench"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "__init__.py").write_text("")
    prefix = "alexnet_dali." if namespace else ""
    (tmp_path / "setup.cfg").write_text(f"packages = {prefix}pipeline")
    (tmp_path / "tools/bench/told.py").write_text(
        f"import {prefix}pipeline as found; print(found.__file__)"
    )
    arguments, environment = Other.at(str(tmp_path)).command(
        (["-m", "alexnet_dali.tools.bench.told"], {"A": "1"})
    )
    assert environment == {"A": "1", **packages_of(tmp_path)}
    told = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert Path(told.stdout.strip()).samefile(tmp_path / "pipeline/__init__.py")


def test_another_checkout_names_its_own_baselines():
    found = Other.at(str(ROOT)).baselines(
        "alexnet_dali.tools.bench.feeding", "baselines", "cuda", "resnet"
    )
    assert found == [*baselines("cuda", "resnet")]


def test_what_the_other_lacks_is_left_out(capsys):
    commands = {name: ([name], {}) for name in ("ours", "ours-new")}
    assert list(both(commands, OTHER, ["ours", "ours-old"])) == ["ours", OTHER.name("ours")]
    assert "ours-new is left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has none of ours, ours-new"):
        both(commands, OTHER, ["decode"])


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkout of this project"):
        bench.main(["host", "--data", "x", "--against", str(tmp_path)])
    with pytest.raises(ValueError, match="--against compares"):
        bench.main(["step", "--against", str(ROOT)])


def test_rounds_begin_with_each_of_a_pair_in_turn(prepared, monkeypatch, capsys):
    started = []

    def measure(name, command):
        started.append((name, command[1].get("PYTHONPATH")))
        return {"images_per_second": 100.0 if command[1].get("PYTHONPATH") else 200.0}

    monkeypatch.setattr(bench, "_measure", measure)
    monkeypatch.setattr(bench, "stores", lambda data, folder, names: dict.fromkeys(names, "."))
    monkeypatch.setattr(Other, "baselines", lambda *arguments: ["decode", "ours"])
    arguments = ["pipeline", "--data", str(prepared), "--device", "cpu", "--against", str(ROOT)]
    bench.main(arguments)
    ours, theirs = ("ours", None), (OTHER.name("ours"), packages_of(ROOT)["PYTHONPATH"])
    assert started == [ours, theirs, theirs, ours] * 3
    printed = capsys.readouterr().out.replace(" ", "")
    assert "|ours|images_per_second|2|2|2|0.9688|larger|" in printed


def test_a_checkout_before_0_3_reads_the_folder_in_format_1(prepared, tmp_path):
    (tmp_path / "setup.cfg").write_text("packages = pipeline")
    (tmp_path / "tools/bench").mkdir(parents=True)
    (word,), _ = Other.at(str(tmp_path)).command(([str(prepared)], {}))
    about = yaml.safe_load((Path(word) / "dataset.yaml").read_text())
    assert about == yaml.safe_load((prepared / "dataset.yaml").read_text()) | {"format": 1}
    assert (Path(word) / "train.txt").samefile(prepared / "train.txt")


def test_a_checkout_before_0_3_is_asked_for_its_contenders(tmp_path):
    (tmp_path / "setup.cfg").write_text("packages = pipeline")
    (tmp_path / "tools/bench").mkdir(parents=True)
    (tmp_path / "tools/bench/feeding.py").write_text("def contenders(*arguments): return arguments")
    other = Other.at(str(tmp_path))
    assert other.baselines("alexnet_dali.tools.bench.feeding", "baselines", "a") == ["a"]
