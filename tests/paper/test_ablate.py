import json
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools import cli
from alexnet_dali.tools.paper import ablate, runs
from alexnet_dali.tools.paper.ablate import Claim, compare, interval, seeds_needed, verdict
from alexnet_dali.train.parallel.agreement import StopRequest
from tests.paper.pool import workers
from tests.processes import Started, command
from tests.recipes import TINY


def test_differences_are_paired_and_their_intervals_cover_the_truth():
    """Three networks see 2,000 images, each of which is easy or hard for all of them.

    So errors vary widely, and paired differences little.
    """
    rng = np.random.default_rng(0)
    hard = rng.random((1, 2000)) < 0.3
    whole = hard ^ (rng.random((3, 2000)) < 0.02)
    worse = whole | (rng.random((3, 2000)) < 0.05)
    same = hard ^ (rng.random((3, 2000)) < 0.02)
    wrong = {"whole": whole, "worse": worse, "same": same}
    rows = {row.variant: row for row in compare(wrong, dict.fromkeys(wrong, 0.1))}
    assert rows["whole"].error == whole.mean() and rows["whole"].difference == 0
    assert rows["worse"].difference == pytest.approx(worse.mean() - whole.mean())
    low, high = rows["worse"].difference_range
    assert 0 < low < rows["worse"].difference < high and high - low < 0.04
    # From images alone, the width is about 2 * 1.96 * sqrt(.3 * .7 / 2000) = 0.04
    low, high = rows["whole"].error_range
    assert low < 0.3 < high and 0.03 < high - low < 0.06
    low, high = rows["same"].difference_range
    assert low < 0 < high


@pytest.mark.parametrize(
    "seeds, images, seed_deviation", [(3, 4000, 0.02), (3, 400, 0.002), (5, 1000, 0.01)]
)
def test_intervals_cover_the_truth_whether_seeds_or_images_vary(seeds, images, seed_deviation):
    """There is no true difference, but each run has a random deviation of its own.

    A 95 % interval covers the truth in 190 of 200 trials; the test allows three standard errors
    less.
    """
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(200):
        rates = 0.3 + seed_deviation * rng.normal(size=(2, seeds, 1))
        whole, other = rng.random((2, seeds, images)) < rates
        _, row = compare({"whole": whole, "other": other}, {"whole": 0.1, "other": 0.1})
        covered += row.difference_range[0] <= 0 <= row.difference_range[1]
        widths.append(row.difference_range[1] - row.difference_range[0])
    assert covered >= 181
    true_deviation = np.sqrt(2 * (seed_deviation**2 + 0.3 * 0.7 / images) / seeds)
    # For three seeds, Student's factor is 4.3 on either side
    assert np.median(widths) < 12 * true_deviation


@pytest.mark.parametrize(
    "difference, ends, needed, expected",
    [
        (0.02, (0.01, 0.03), 3, "yes"),
        (-0.02, (-0.03, -0.01), 3, "no"),
        (0.01, (-0.01, 0.03), 7, "undecided: 7 seeds would be needed"),
        (0.01, (-0.01, 0.03), np.inf, "undecided: more images are needed, too"),
        (0.01, (-np.inf, np.inf), np.inf, "undecided: one seed"),
    ],
)
def test_a_verdict_says_the_sign_only_where_the_interval_decides_it(
    difference, ends, needed, expected
):
    row = ablate.Row("x", 0.1, 0.5, (0.4, 0.6), difference, ends, needed)
    assert verdict(row, Claim(1, "+1")) == expected


def test_seeds_that_would_decide_are_students():
    """Differences of 1, 3 and 5 points: mean 3, deviation 2; every image weighs alike.

    By a table of Student's t: with 4 seeds, 3.182 * 2 / sqrt(4) = 3.2 > 3; with 5, 2.776 * 2 /
    sqrt(5) = 2.5 < 3. Three seeds: 4.303 * 2 / sqrt(3) = 5.0.
    """
    change = np.repeat([[0.01], [0.03], [0.05]], 1000, axis=1)
    assert seeds_needed(change) == 5
    assert interval(change) == pytest.approx((-0.0197, 0.0797), abs=1e-4)
    assert seeds_needed(change[:1]) == np.inf and interval(change[:1]) == (-np.inf, np.inf)


def test_no_number_of_seeds_makes_up_for_few_images():
    """On 100 images, of which 3 differ, two seeds agree: 1.96 * sqrt(.03 * .97 / 100) = .033."""
    change = np.zeros((2, 100))
    change[:, :3] = 1
    assert seeds_needed(change) == np.inf
    assert seeds_needed(np.repeat(change, 10, axis=1)) == 2


def arguments(prepared, folder, *more):
    """The command's arguments: the recipe and the output are in `folder`."""
    options = ["--data", prepared, "--config", folder / "tiny.yaml", "--out", folder / "out"]
    return [str(part) for part in [*options, *more]]


def test_variants_are_trained_once_and_listed_in_a_table(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "workers", workers)
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = arguments(prepared, tmp_path, "--seeds", "2", "--variants", "no-dropout")
    words += ["--at-once", "2", "--run.max_steps", "2"]
    ablate.main(words)
    lines = (tmp_path / "out/ablation.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["whole", "no-dropout"]
    assert "substantial overfitting" in lines[3] and "2 seeds, 15 validation images" in lines[-1]
    assert (tmp_path / "out/ablation.png").stat().st_size > 5000 and (
        tmp_path / "out/ablation.svg"
    ).is_file()
    checkpoints = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    assert len(checkpoints) == 4
    ablate.main(words)
    assert checkpoints == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")
    }
    with pytest.raises(ValueError, match="was trained otherwise"):
        ablate.main([*words, "--optim.lr", "0.5"])
    ablate.main([*words[:-1], "3"])
    assert len(list((tmp_path / "out").rglob("step-0000000003.pt"))) == 4, (
        "stopped early, and taken for finished"
    )


def test_a_stopped_command_saves_its_runs_and_does_not_take_them_for_finished(
    prepared, tmp_path, monkeypatch
):
    """A run ends early by its options. The command then resumes it for longer, and gets SIGTERM.

    It must save what was trained, and not take the run for finished.
    """
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 4", "epochs: 2000"))
    options = arguments(
        prepared, tmp_path, "--seeds", "1", "--variants", "no-dropout", "no-dropout"
    )
    with monkeypatch.context() as patched:
        patched.setattr(runs, "workers", workers)
        ablate.main([*options, "--run.max_steps", "2"])
    folder = tmp_path / "out/whole-seed0"
    begun = len((folder / "metrics.jsonl").read_text().splitlines())
    process = command("-m", "alexnet_dali.tools", "ablate", *options)
    while len((folder / "metrics.jsonl").read_text().splitlines()) == begun:
        assert process.poll() is None, process.errors()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert max(folder.glob("checkpoints/*.pt")).name > "step-0000000002.pt", (
        "what was trained is saved"
    )
    args, more = ablate._arguments(options)
    assert not ablate._is_finished(
        ablate._run("whole", 0, args, more), Dataset.open(Path(prepared))
    )


def save_slowly(folder, name, seconds):
    with StopRequest() as stop:
        (folder / f"{name}.begun").touch()
        while stop.signal is None:
            time.sleep(0.01)
        time.sleep(seconds)
        (folder / f"{name}.saved").touch()
    runs.wait_for_the_end()


def two_runs(folder):
    """A command whose two workers are forked: spawned, they would take seconds to start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    runs.get_context = lambda kind: get_context("fork")

    def main(argv):
        with runs.workers(2) as pool:
            list(pool.map(save_slowly, [folder] * 2, ["quick", "slow"], [0, 1]))

    cli.run(main)


@pytest.mark.parametrize("number, group", [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_the_command_waits_for_a_run_that_saves_slowly(number, group, tmp_path):
    """SIGTERM goes to the command alone, Ctrl-C to all of its processes."""
    process = Started(two_runs, tmp_path, own_session=True)
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert process.poll() is None, process.errors()
        time.sleep(0.05)
    (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(60) == 128 + number
    assert (tmp_path / "quick.saved").exists() and (tmp_path / "slow.saved").exists()


def test_the_training_error_is_that_of_the_last_epoch(prepared, tmp_path):
    """An epoch has 3 steps: 40 images in batches of 12.

    The lines of the last epoch are those of steps 10 and 12, of one step and of two.
    """
    (tmp_path / "tiny.yaml").write_text(TINY)
    lines = [
        {"step": step, "epoch": step // 3, "train/top1_error": step / 100}
        for step in (2, 3, 5, 6, 9, 10, 12)
    ]
    lines.insert(4, {"step": 6, "epoch": 2, "val/top1_error": 0.9})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = [str(tmp_path / "tiny.yaml"), "--data.root", str(prepared)]
    dataset = Dataset.open(Path(prepared))
    assert len(dataset.train) // 12 == 3
    assert ablate._train_error(ablate.Run("whole", 0, tmp_path, options), dataset) == pytest.approx(
        (0.10 + 2 * 0.12) / 3
    )


@pytest.mark.parametrize(
    "more, message",
    [
        (["--train.seed", "5"], "chosen for each run"),
        (["--nproc", "2", "--at-once", "2"], "one after another"),
    ],
)
def test_conflicting_options_are_refused(more, message, prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    with pytest.raises(ValueError, match=message):
        ablate.main(arguments(prepared, tmp_path, *more))


def test_a_run_that_fails_says_why(prepared, tmp_path, monkeypatch):
    """In a worker; those that are forked need not import anything."""
    monkeypatch.setattr(runs, "get_context", lambda kind: get_context("forkserver"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = arguments(prepared, tmp_path, "--seeds", "1", "--variants", "no-dropout")
    with pytest.raises(ValueError, match=r"whole-seed0: .*42 training images"):
        ablate.main([*words, "--train.batch_size", "400"])
