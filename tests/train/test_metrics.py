"""Lines of a run: a thread writes them, before a checkpoint; each step is in one of them."""

import json
import resource
import shutil
import threading
import time
from functools import partial

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.run_folder import check_kept, claim
from alexnet_dali.train.config import load
from alexnet_dali.train.record.metrics import Monitor, read_metrics
from alexnet_dali.train.trainer import Trainer
from tests.train import test_train

recipe, train = test_train.recipe, test_train.train


@pytest.fixture
def folder(recipe, tmp_path):
    """A run's folder, which stays claimed."""
    folder = tmp_path / "run"
    lock = claim(folder, load([str(recipe), "--data.root", "x", "--run.dir", str(folder)]))
    yield folder
    lock.release()


def slow_down(monkeypatch):
    """Have the disk take a while for each line."""
    write = Monitor._write

    def slowly(*arguments):
        time.sleep(0.2)
        write(*arguments)

    monkeypatch.setattr(Monitor, "_write", slowly)


def test_a_slow_disk_holds_up_nobody_until_all_must_be_there(folder, monkeypatch):
    slow_down(monkeypatch)
    monitor = Monitor(folder, 0, partial(check_kept, folder))
    for step in range(1, 6):
        monitor.write(step, 0, {"train/loss": 1.0 / step})
    assert len(read_metrics(folder, "train/loss")) < 5
    monitor.flush()
    assert read_metrics(folder, "train/loss") == {step: 1.0 / step for step in range(1, 6)}
    monitor.close()


@pytest.mark.parametrize("last", ["write", "flush", "close"])
def test_what_goes_wrong_in_the_thread_is_raised_and_nothing_is_written_after_it(folder, last):
    monitor = Monitor(folder, 0, partial(check_kept, folder))
    monitor.write(1, 0, {"train/loss": 1.0})
    monitor.flush()
    full = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    good, monitor._file = monitor._file, full
    monitor.write(2, 0, {"train/loss": 2.0})
    monitor._thread.submit(int).result()  # it has come to the end of its queue
    monitor._file = good
    calls = {
        "write": lambda: monitor.write(3, 0, {}),
        "flush": monitor.flush,
        "close": monitor.close,
    }
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        calls[last]()
    with pytest.raises(OSError, match="No space left on device"):
        monitor.flush()
    assert read_metrics(folder, "train/loss") == {1: 1.0}


def test_a_line_that_waits_behind_one_that_fails_is_not_written(folder, monkeypatch):
    slow_down(monkeypatch)
    monitor = Monitor(folder, 0, partial(check_kept, folder))
    monitor.write(1, 0, {"train/loss": 1.0})
    monitor.write(2, 0, {"train/loss": {1, 2}})  # no JSON
    monitor.write(3, 0, {"train/loss": 3.0})
    with pytest.raises(TypeError, match="not JSON serializable"):
        monitor.flush()
    assert read_metrics(folder, "train/loss") == {1: 1.0}


@pytest.mark.parametrize("back", [-1000.0, 0.0, 1000.0])
def test_tensorboard_shows_all_steps_where_the_clock_was_set_back_between(
    back, folder, monkeypatch
):
    """It orders a run's files by the time in their names; then come older steps after newer."""
    now = 2e9
    for step in range(3):
        monkeypatch.setattr(time, "time", lambda: now)  # noqa: B023
        monitor = Monitor(folder, step, partial(check_kept, folder))
        monitor.write(step + 1, 0, {"train/loss": 1.0})
        monitor.close()
        now += back
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("learning/loss")] == [1, 2, 3]


def test_events_that_can_not_be_written_are_one_error_without_a_traceback(
    folder, capfd, monkeypatch
):
    """TensorBoard writes them in a thread of its own, which would print its own."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's
    monitor = Monitor(folder, 0, lambda: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*metrics.jsonl"):
            for step in range(1, 100):
                monitor.write(step, 0, {"train/loss": 1.0, "train/lr": 1.0})
                monitor.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_a_folder_that_is_gone_is_told_by_the_next_call(folder):
    monitor = Monitor(folder, 0, partial(check_kept, folder))
    monitor.flush()
    shutil.rmtree(folder)
    monitor.write(1, 0, {"train/loss": 1.0})
    with pytest.raises(OSError, match="is no longer there"):
        monitor.flush()


def test_every_line_up_to_a_checkpoint_is_on_the_disk_before_it(train, tmp_path, monkeypatch):
    slow_down(monkeypatch)
    write, save, logged, found = Monitor.write, checkpoint.save, [], []

    def note(self, step, *rest):
        logged.append(step)
        write(self, step, *rest)

    def look(*arguments):
        lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
        found.append(([json.loads(line)["step"] for line in lines], list(logged)))
        save(*arguments)

    monkeypatch.setattr(Monitor, "write", note)
    monkeypatch.setattr(checkpoint, "save", look)
    monkeypatch.setattr(Trainer, "_save_is_due", lambda self: False)  # by the clock
    assert train(tmp_path / "run", "--run.checkpoint_minutes", "0", "--run.max_steps", "6") == 0
    assert len(found) == 6 and all(lines == logged for lines, logged in found)


def test_a_line_at_the_step_of_a_checkpoint_is_not_counted_again_on_resuming(
    train, tmp_path, monkeypatch
):
    """Step 2 has a checkpoint and, by the clock, a line. The next line is of step 3 alone."""
    assert train(tmp_path / "each", "--run.max_steps", "3") == 0
    monkeypatch.setattr(
        "alexnet_dali.train.parallel.agreement._INTERVAL", 0.0
    )  # ranks meet after every step
    monkeypatch.setattr(Trainer, "_log_is_due", lambda self: self.state.step == 2)
    monkeypatch.setattr(Trainer, "_save_is_due", lambda self: self.state.step == 2)
    save, by_time = checkpoint.save, ("--run.log_seconds", "1000")

    def killed(folder, state, *rest):
        save(folder, state, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    assert train(tmp_path / "run", *by_time) == 130
    monkeypatch.setattr(checkpoint, "save", save)
    assert train(tmp_path / "run", *by_time, "--run.max_steps", "3") == 0
    losses, found = (read_metrics(tmp_path / run, "train/loss") for run in ("each", "run"))
    assert found == pytest.approx({2: (losses[1] + losses[2]) / 2, 3: losses[3]}, rel=1e-12)


def test_lines_come_by_the_main_ranks_clock_and_at_each_epochs_end(train, tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_dali.train.parallel.agreement._INTERVAL", 0.0)
    clock = iter([False, True, True, False, True] + 7 * [False])  # an epoch has 3 steps
    monkeypatch.setattr(Trainer, "_log_is_due", lambda self: next(clock))
    assert train(tmp_path / "run", "--run.log_seconds", "1000") == 0
    assert list(read_metrics(tmp_path / "run", "train/loss")) == [2, 3, 5, 6, 9, 12]
