"""Whole runs: stopped, killed and resumed, and what they write.

Tests use one process where two would show no more.
"""

import fcntl
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_dali.tools import evaluate
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.trainer import Trainer
from tests.images import prepare
from tests.processes import command
from tests.ranks import launch
from tests.recipes import TINY

STEPS = 12  # 42 images make 3 steps an epoch


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def train(recipe, prepared):
    """Runs `alexnet train` in this process; returns its exit status."""

    def run(folder, *more):
        return main([str(recipe), "--data.root", str(prepared), "--run.dir", str(folder), *more])

    return run


def words(recipe, prepared, folder, *more):
    return ["-m", "alexnet_dali.train", recipe, "--data.root", prepared, "--run.dir", folder, *more]


def final_state(folder):
    return checkpoint.load(checkpoint.newest(folder / "checkpoints"))


def best_state(folder):
    """What tells the best checkpoint from others; None where there is none."""
    path = folder / "checkpoints/best.pt"
    if not path.exists():
        return None
    saved = checkpoint.load(path)
    return saved["step"], saved["best"], float(saved["model"]["fc8.weight"].sum())


def metrics(folder):
    """Every line of metrics.jsonl, without the values that depend on time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if key != "time" and not key.startswith("throughput/")
        }
        for line in lines
    ]


def assert_same_run(one, other):
    first, second = final_state(one), final_state(other)
    assert (
        first["step"] == second["step"]
        and first["lr"] == second["lr"]
        and first["schedule"] == second["schedule"]
    )
    for part in ("model", "momentum"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), f"{part} {key}"
    assert metrics(one) == metrics(other)
    assert first["best"] == second["best"]
    assert best_state(one) == best_state(other)


def test_a_run_from_start_to_end(train, tmp_path, prepared, capsys):
    """What it writes and prints.

    The error that it reports must be the one that tools/evaluate.py finds.
    """
    folder = tmp_path / "run"
    assert train(folder) == 0
    printed = capsys.readouterr().out
    pattern = (
        r"\n\d\d:\d\d:\d\d  epoch 1/4  step 2/12  loss \d\.\d{5}  top-1 error [\d.]+%"
        r"(  \d+ images/s  waiting for data [\d.]+%)?"
    )
    assert re.search(pattern, printed) and "validation top-1 error" in printed
    lines = metrics(folder)
    training = [line for line in lines if "train/loss" in line]
    validation = [line for line in lines if "val/top1_error" in line]
    assert [line["step"] for line in training] == list(range(1, STEPS + 1))
    assert [(line["step"], line["epoch"]) for line in validation] == [
        (3, 1),
        (6, 2),
        (9, 3),
        (12, 4),
    ]
    assert all(0 <= line["val/top5_error"] <= line["val/top1_error"] <= 1 for line in validation)
    events = EventAccumulator(str(folder)).Reload()
    wanted = {"learning/loss", "learning/rate"}
    wanted |= {"errors/top1_train", "errors/top1_val", "errors/top5_val"}
    wanted |= {
        f"throughput/{name}" for name in ("images_per_second", "data_wait_fraction", "step_ms")
    }
    assert wanted <= set(events.Tags()["scalars"])
    assert events.Scalars("learning/loss")[-1].value == pytest.approx(
        training[-1]["train/loss"], rel=1e-6
    )
    assert events.Scalars("errors/top1_val")[-1].step == STEPS
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == ["best.pt", "step-0000000009.pt", "step-0000000012.pt"]
    evaluate.main(
        [str(folder), "--data", str(prepared), "--json", "--batch-size", "4", "--device", "cpu"]
    )
    found = json.loads(capsys.readouterr().out)
    assert found["num_images"] == 15 and found["networks"][0]["step"] == STEPS
    assert found["top1_error"] == pytest.approx(validation[-1]["val/top1_error"])


def test_an_interrupted_run_ends_with_the_same_bits(train, tmp_path, capsys):
    """Weights, momentum, schedule and metrics are the same as without a stop and pictures.

    The pieces end inside and at the end of epochs and of log intervals.
    """
    epochs_alone = ("--run.log_seconds", "1e9")
    assert train(tmp_path / "whole", *epochs_alone, "--run.pictures", "false") == 0
    assert not EventAccumulator(str(tmp_path / "whole")).Reload().Tags()["images"]
    for stop in (1, 5, 6, 9, STEPS):
        pictures = ("--run.pictures", "true", "--run.max_steps", str(stop))
        assert train(tmp_path / "pieces", *epochs_alone, *pictures) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "pieces")
    assert EventAccumulator(str(tmp_path / "pieces")).Reload().Tags()["images"]
    assert "resuming from step 9" in capsys.readouterr().out
    assert train(tmp_path / "pieces") == 0  # nothing is left to do
    assert final_state(tmp_path / "pieces")["step"] == STEPS


def wait_for(process, step):
    """Read what a run prints, until it has logged this step."""
    for line in process.stdout:
        if f"step {step}/" in line:
            return
    raise AssertionError(process.errors())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_resumes(number, train, recipe, prepared, tmp_path):
    process = command(*words(recipe, prepared, tmp_path / "run", "--train.epochs", "300"))
    wait_for(process, step=4)
    process.send_signal(number)
    rest = "".join(process.communicate())
    assert process.returncode == 128 + number, rest
    step = final_state(tmp_path / "run")["step"]
    assert (
        f"stopped by {signal.Signals(number).name} after step {step}" in rest
        and step >= 4
        and "Traceback" not in rest
    )
    options = ["--train.epochs", "300", "--run.max_steps", str(step + 2)]
    assert train(tmp_path / "run", *options) == 0
    assert train(tmp_path / "whole", *options) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def assert_traced(folder):
    """Each rank's trace must name every part of a step, as often as four steps have it."""
    for rank in range(2):
        events = json.loads((folder / f"trace-rank{rank}.json").read_text())["traceEvents"]
        names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        for name in ("waiting for data", "forward", "backward", "update"):
            assert names.count(name) == 4, name
        assert names.count("exchange: wait") >= 4 and names.count("exchange: send ahead") >= 4
        assert names.count("column gathers") >= 4 * 9  # four forward and back, the logits forward


def test_two_ranks_killed_at_random_resume_to_the_same_bits(train, recipe, prepared, tmp_path):
    """One of two ranks gets SIGKILL, and a rerun on two ranks resumes.

    It ends with the bits of a run that was not killed, and of a run in one process with a rank's
    threads. With other numbers of threads, oneDNN adds up the gradients of conv1 and conv2 in
    another order.
    """
    options = ["--run.checkpoint_minutes", "0"]
    whole = words(recipe, prepared, tmp_path / "whole", *options, "--run.profile", "4")
    assert launch(2, *whole).wait() == [0, 0]
    assert_traced(tmp_path / "whole")
    killed = words(recipe, prepared, tmp_path / "killed", *options)
    launched = launch(2, *killed)
    wait_for(launched.ranks[0], step=6)
    random.choice(launched.ranks).kill()
    assert 0 not in launched.wait()
    assert final_state(tmp_path / "killed")["step"] < STEPS
    assert launch(2, *killed).wait() == [0, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    assert train(tmp_path / "alone") == 0
    torch.set_num_threads(threads)
    assert_same_run(tmp_path / "whole", tmp_path / "alone")


def test_a_run_too_short_for_its_profile_says_so(train, tmp_path, capfd):
    assert train(tmp_path / "run", "--run.max_steps", "6", "--run.profile", "4") == 0
    assert "run.profile: no trace; it takes 9 steps of one run\n" in capfd.readouterr().out
    assert not [*(tmp_path / "run").glob("trace*")]


def test_metrics_after_the_checkpoint_are_removed_on_resuming(train, tmp_path):
    """A killed run has logged steps that the next run takes again.

    Its last line may be cut short.
    """
    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "run", "--run.max_steps", "6") == 0
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 8, "epoch": 2, "train/loss": 99.0}\n{"step": 9, "ep')
    assert train(tmp_path / "run") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_log_line_is_the_mean_over_its_steps_wherever_the_run_was_interrupted(train, tmp_path):
    assert train(tmp_path / "each", "--run.max_steps", "6") == 0
    for stop in ("2", "4", "6"):
        options = ("--run.log_seconds", "1e9", "--run.max_steps", stop)
        assert train(tmp_path / "cut", *options) == 0
    losses = [line["train/loss"] for line in metrics(tmp_path / "each") if "train/loss" in line]
    cut = [line["train/loss"] for line in metrics(tmp_path / "cut") if "train/loss" in line]
    assert cut == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:6]) / 3], rel=1e-12)


def test_a_run_folder_is_used_by_one_training_at_a_time(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--run.max_steps", "1") == 0
    with open(tmp_path / "run/.lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "in use by another training" in fails(capsys, train(tmp_path / "run"))
    assert train(tmp_path / "run") == 0


def test_a_failed_start_claims_nothing_and_leftovers_of_a_kill_are_removed(train, tmp_path, capsys):
    fails(capsys, train(tmp_path / "run", "--optim.lr", "1e30"))
    (tmp_path / "run/checkpoints").mkdir(exist_ok=True)
    (tmp_path / "run/checkpoints/.step-0000000003.pt.99.tmp").write_bytes(b"half")
    assert train(tmp_path / "run", "--run.max_steps", "1") == 0
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == [
        "step-0000000001.pt"
    ]


def fails(capsys, status):
    """The message of a run that could not start."""
    assert status == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    return message


def test_bad_input_gets_a_message_and_changes_nothing(
    train, recipe, tmp_path, prepared, capsys, monkeypatch
):
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    message = fails(capsys, train(tmp_path / "run", "--optim.lr", "0.5", "--train.seed", "3"))
    assert "optim.lr: 0.02 -> 0.5" in message and "train.seed: 0 -> 3" in message
    message = fails(
        capsys,
        main([str(recipe), "--data.root", str(tmp_path / "no"), "--run.dir", str(tmp_path / "x")]),
    )
    assert "no dataset.yaml" in message
    message = fails(capsys, train(tmp_path / "x", "--train.batch_size", "43"))
    assert "42 training images" in message
    message = fails(capsys, train(tmp_path / "x", "--data.crop", "20"))
    assert "leaves nothing of the maps" in message
    message = fails(capsys, train(tmp_path, "--train.epochs", "1"))
    assert "no run" in message
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "0 GPUs were found" in fails(capsys, train(tmp_path / "x", "--run.device", "cuda"))
    assert not (tmp_path / "x").exists()
    assert {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    } == before


def test_a_checkpoint_of_another_network_or_other_images_is_refused(
    train, recipe, tmp_path, capsys
):
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    assert train(tmp_path / "wide", "--run.max_steps", "1", "--model.fc_width", "32") == 0
    newest = checkpoint.newest(tmp_path / "wide/checkpoints")
    newest.rename(tmp_path / "run/checkpoints/step-0000000009.pt")
    assert "model.fc_width: 32 -> 24" in fails(capsys, train(tmp_path / "run"))
    (tmp_path / "run/checkpoints/step-0000000009.pt").unlink()
    other = prepare(tmp_path, dict.fromkeys("abcd", 12))
    state = checkpoint.newest(tmp_path / "run/checkpoints")
    (tmp_path / "moved/checkpoints").mkdir(parents=True)
    state.rename(tmp_path / "moved/checkpoints" / state.name)
    arguments = [str(recipe), "--data.root", str(other), "--run.dir", str(tmp_path / "moved")]
    (tmp_path / "moved/config.yaml").write_text(
        (tmp_path / "run/config.yaml")
        .read_text()
        .replace(str(Path(final_root(tmp_path))), str(other))
    )
    assert "other images" in fails(capsys, main(arguments))
    with pytest.raises(ValueError, match="classes"):
        evaluate.main([str(tmp_path / "moved"), "--data", str(other), "--device", "cpu"])


def final_root(folder):
    """data.root of the run in `folder`/run."""
    return re.search(r"root: (.*)", (folder / "run/config.yaml").read_text())[1]


def test_an_odd_number_of_ranks_or_an_indivisible_batch_is_refused(
    recipe, prepared, tmp_path, monkeypatch, capsys
):
    arguments = [str(recipe), "--data.root", str(prepared), "--run.dir", str(tmp_path / "x")]
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    assert "an even number" in fails(capsys, main(arguments))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name)
    launched = launch(2, *words(recipe, prepared, tmp_path / "x", "--train.batch_size", "13"))
    assert 0 not in launched.wait()
    said = "".join(rank.errors() for rank in launched.ranks)
    assert said.count("a batch of 13 images can't be shared evenly by 2 ranks") == 1
    assert not (tmp_path / "x").exists()


def test_a_loss_that_is_not_a_number_ends_the_run_with_advice(train, tmp_path, capsys):
    message = fails(capsys, train(tmp_path / "run", "--optim.lr", "1e30"))
    assert "the loss is non-finite at step" in message and "smaller --optim.lr" in message


def test_a_checkpoint_never_holds_a_network_that_has_diverged(train, tmp_path, capsys):
    """Within the first epoch, no line is logged.

    So the divergence must be noticed when the checkpoint is saved.
    """
    within = ("--run.log_seconds", "1e9", "--run.max_steps", "2")
    message = fails(capsys, train(tmp_path / "run", "--optim.lr", "1e30", *within))
    assert "at step 2" in message and not (tmp_path / "run/checkpoints").exists()


def test_the_stopwatch_separates_waiting_from_computing(monkeypatch):
    """Two steps wait 0.3 s and compute 0.7 s, after a first one that does not count."""
    from alexnet_dali.train.record.stopwatch import Stopwatch

    clock = iter([0, 10, 20, 20.3, 21, 21.3, 22])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    stopwatch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        stopwatch.got_batch()
        stopwatch.end_step()
    found = stopwatch.metrics(batch_size=128)
    assert found["throughput/images_per_second"] == pytest.approx(128)
    assert found["throughput/data_wait_fraction"] == pytest.approx(0.3)
    assert found["throughput/step_ms"] == pytest.approx(1000)


def test_a_signal_shortly_before_the_last_step_is_not_forgotten(train, tmp_path, monkeypatch):
    """A command that runs many trainings, as for figure 1, would otherwise begin the next one."""
    train_step = Trainer.train_step

    def signalled(self, batch):
        train_step(self, batch)
        if self.state.step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_step", signalled)
    monkeypatch.setattr(
        "alexnet_dali.train.parallel.agreement._INTERVAL", 1000.0
    )  # ranks meet after steps 1, 3, 7, 15, ...
    assert train(tmp_path / "run") == 128 + signal.SIGTERM
    assert final_state(tmp_path / "run")["step"] == STEPS


BY_STEPS = ("--optim.schedule", "multistep")


def test_a_longer_run_with_a_later_drop_is_the_run_that_had_them_from_the_start(train, tmp_path):
    """So the paper's authors did it by hand; the folder keeps a record."""
    train(tmp_path / "whole", *BY_STEPS, "--train.epochs", "4", "--optim.milestones", "[1, 3]")
    train(tmp_path / "longer", *BY_STEPS, "--train.epochs", "2", "--optim.milestones", "[1]")
    more = (*BY_STEPS, "--train.epochs", "4", "--optim.milestones", "[1, 3]")
    train(tmp_path / "longer", *more)
    assert_same_run(tmp_path / "whole", tmp_path / "longer")
    record = (tmp_path / "longer/changes.txt").read_text()
    assert record.startswith("after epoch 2: ") and "train.epochs: 2 -> 4" in record
    train(tmp_path / "longer", *more)
    assert (tmp_path / "longer/changes.txt").read_text() == record


@pytest.mark.parametrize(
    "before, after, name",
    [
        (BY_STEPS, ("--optim.milestones", "[1]"), "optim.milestones"),  # would have been before
        (BY_STEPS, ("--train.epochs", "1"), "train.epochs"),
        (("--optim.schedule", "exponential"), ("--train.epochs", "6"), "train.epochs"),
        (BY_STEPS, ("--optim.momentum", "0.5"), "optim.momentum"),
    ],
)
def test_what_would_have_changed_the_epochs_so_far_is_refused(
    train, tmp_path, before, after, name, capsys
):
    train(tmp_path / "run", *before, "--train.epochs", "2")
    options = (*before, "--train.epochs", "2", *after)  # the last one of a name counts
    assert train(tmp_path / "run", *options) == 2
    assert f"holds a run with another config ({name}: " in capsys.readouterr().err
    assert not (tmp_path / "run/changes.txt").exists()
