"""What Python costs: whose time is counted, what a further image costs, and real runs."""

import json
import subprocess
import sys
import threading
import time

import pytest

from alexnet_dali.tools import ROOT
from alexnet_dali.tools.bench import __main__ as bench
from alexnet_dali.tools.bench import host, host_driver
from alexnet_dali.tools.bench.against import Other
from tests.processes import run_at_once


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_time_belongs_to_the_thread_or_process_that_has_spent_it():
    seen = {}
    start = host_driver._spent(seen)
    busy, done = threading.Event(), threading.Event()

    def work():
        burn(0.2)
        busy.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    busy.wait()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.5: pass"])
    main, threads, everything = host_driver._spent(seen).less(start)[1:]
    done.set()
    thread.join()
    assert main < 0.1e9 and 0.2e9 <= threads < 0.35e9
    assert 0.65e9 <= everything < 1.2e9


def test_an_epochs_draws_are_shared_out_over_its_batches(monkeypatch):
    per_epoch = 500
    monkeypatch.setattr(host_driver, "NUM_IMAGES", per_epoch)

    def batches(folder, batch_size, first_step):
        for step in range(first_step, 2 * per_epoch):
            burn(0.001 + 0.5 * (step == per_epoch))
            yield step

    monkeypatch.setattr(host_driver, "_batches", batches)
    measured, longest = host_driver._feed("folder", 1)
    assert measured.main == pytest.approx(2e6, rel=0.2)  # 1 ms, and a 500th of 0.5 s
    assert longest > 0.5e9


def test_a_further_image_costs_what_lies_between_two_batches():
    def row(batch_size, main, threads):
        return {"batch_size": batch_size, "main_ms": main, "threads_ms": threads}

    other = Other(ROOT)
    rounds = {
        "store-128": [row(128, 1.0, 2.0), row(128, 1.0, 3.0)],
        "store-256": [row(256, 1.128, 2.256), row(256, 2.28, 3.0)],
        "shards-128": [row(128, 1.0, 2.0), row(128, 1.0, 2.0)],
    }
    rounds |= {other.name(name): measured for name, measured in rounds.items()}
    found = host.with_slopes(rounds)
    assert found.keys() - rounds.keys() == {
        "store-further-image",
        other.name("store-further-image"),
    }
    first, second = found["store-further-image"]
    assert first == {"main_us": pytest.approx(1.0), "threads_us": pytest.approx(2.0)}
    assert second == {"main_us": pytest.approx(10.0), "threads_us": 0.0}


def test_two_folders_of_one_kind_are_refused(prepared):
    with pytest.raises(ValueError, match="holds originals, as another does"):
        bench.main(["host", "--data", str(prepared), str(prepared)])
    with pytest.raises(ValueError, match="--data has 2 values; pipeline takes one"):
        bench.main(["pipeline", "--data", str(prepared), str(prepared)])


def test_host_measures_real_processes(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.subprocess, "run", run_at_once)
    arguments = ["host", "--data", str(prepared), "--batch-size", "6", "--rounds", "1"]
    bench.main([*arguments, "--json", str(tmp_path / "b.json")])
    report = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows.keys() == {"originals-6", "step"}
    row = rows["originals-6"]
    assert row["batch_size"] == 6 and row["read_us_per_image"] > 0
    assert 0 < row["main_ms"] <= row["threads_ms"] <= 0.006 * row["cpu_us_per_image"]
    assert row["images_per_second"] > 0 and row["longest_ms"] > 0
    step = rows["step"]
    assert 0 < step["own_ms"] < step["main_ms"] and 100 < step["operations"] <= 170
    assert "| step" in capsys.readouterr().out
