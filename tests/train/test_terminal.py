"""Terminals, pipes and locales: what a run makes of where it was started."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from alexnet_dali.model.columns import Columns
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.system import pauses
from alexnet_dali.tools import cli
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.parallel.ranks import Ranks
from alexnet_dali.train.parallel.watchdog import watching
from alexnet_dali.train.record.stopwatch import Stopwatch
from tests.images import write_class_folders
from tests.processes import Started, command, python
from tests.recipes import TINY

LONG = ("--train.epochs", "100000", "--optim.schedule", "multistep")


@pytest.fixture
def words(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = [tmp_path / "tiny.yaml", "--data.root", prepared, "--run.dir", tmp_path / "run"]
    return ["-m", "alexnet_dali.train", *map(str, words)]


def saved_step(folder):
    newest = checkpoint.newest(folder / "run/checkpoints")
    return checkpoint.step_of(newest) if newest else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_a_hang_up_and_the_warnings_of_job_managers_save(number, words, tmp_path):
    process = command(*words, *LONG)
    while "step 4/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    rest, errors = process.communicate()
    assert process.returncode == 128 + number and "Traceback" not in errors
    assert f"stopped by {number.name} after step {saved_step(tmp_path)}" in rest
    assert saved_step(tmp_path) >= 4


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_the_run_which_saves(words, tmp_path):
    process = command(*words, *LONG)
    process.stdout.readline()
    process.stdout.close()  # as `| head -1` does
    assert process.wait() == 128 + signal.SIGHUP and not process.errors()
    assert saved_step(tmp_path) >= 1


def ignoring_hang_ups(words):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    python(words)


@pytest.mark.slow
def test_under_nohup_neither_a_hang_up_nor_a_lost_reader_stops_it(words, tmp_path):
    process = Started(ignoring_hang_ups, [*words, *LONG, "--run.max_steps", "60"])
    while "step 4/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.stdout.close()
    assert process.wait() == 0 and saved_step(tmp_path) == 60


def test_a_run_without_stdout_or_with_a_full_one_goes_on(words, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", None)
    assert main([*words[2:], "--run.max_steps", "2"]) == 0 and saved_step(tmp_path) == 2
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*words[2:], "--run.max_steps", "4"]) == 0 and saved_step(tmp_path) == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "warning: no more is printed ([Errno 28] No space left on device)"


@pytest.fixture
def handlers():
    """Put signals' handlers back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_commands_end_quietly_where_nobody_reads_and_do_without_stdout(
    handlers, monkeypatch, capfd
):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda argv: print("x"), [])
    assert ended.value.code == 128 + signal.SIGPIPE
    monkeypatch.setattr(sys, "stdout", None)
    cli.run(lambda argv: print("x"), [])
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def broken(argv):
        raise BrokenPipeError(32, "Broken pipe", "another one")

    with pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115
        cli.run(broken, [])
    assert ended.value.code == 2 and "another one" in capfd.readouterr().err


def step_for(seconds):
    """A run's loop, in steps of 0.1 s, watched as one that may stall for a second."""
    alone = Ranks(0, 1, torch.device("cpu"), 1, Columns.whole(2))
    with watching(alone, lambda: "rerun", 1.0) as progress:
        stopwatch, end = Stopwatch(alone.device), time.monotonic() + seconds
        while time.monotonic() < end or not pauses.paused():
            progress.at("forward", 0)
            stopwatch.got_batch()
            time.sleep(0.1)
            stopwatch.end_step()
            print(stopwatch.metrics(1).get("throughput/step_ms"), flush=True)


@pytest.mark.slow
def test_time_in_which_the_process_was_stopped_counts_nowhere():
    """Ctrl-Z for eight seconds, more than twice as long as what ends a run that stalls."""
    process = Started(step_for, 11)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate()
    assert process.returncode == 0 and not errors
    assert float(output.splitlines()[-1]) < 250  # up to 133; 366 with the eight seconds


@pytest.mark.slow
def test_names_are_utf8_whatever_the_locale(tmp_path):
    """Latin-1 and ASCII would take the two bytes of an e with an accent for two characters."""
    for part, seed in (("train", 1), ("val", 2)):
        write_class_folders(tmp_path / part, {"\u00e9": 4, "b": 4}, seed)
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["prep", "--train", tmp_path / "train", "--val", tmp_path / "val"]
    words += ["--out", tmp_path / "out"]
    subprocess.run(
        [sys.executable, "-m", "alexnet_dali.tools", *words],
        env=os.environ | ascii_locale,
        check=True,
    )
    assert (tmp_path / "out/classes.txt").read_bytes() == "b\n\u00e9\n".encode()
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.classes == ["b", "\u00e9"]
    code = "import sys; from alexnet_dali.pipeline import Dataset; d = Dataset.open(sys.argv[1]); "
    code += "print(sys.getfilesystemencoding(), ascii(d.classes), len(d.train.content(5)))"
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"],
        env=os.environ | ascii_locale,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told == f"ascii ['b', '\\xe9'] {len(dataset.train.content(5))}\n"


@pytest.mark.parametrize("module", ["train", "tools.evaluate", "tools"])
@pytest.mark.parametrize(
    "start, message",
    [
        ('exec "$PYTHON" -OO', "Python runs with -OO (PYTHONOPTIMIZE=2)"),
        ('rmdir . ; exec "$PYTHON"', "the working folder can't be entered"),
    ],
)
def test_a_process_in_which_nothing_can_be_imported_is_one_line(module, start, message, tmp_path):
    (tmp_path / "gone").mkdir()
    start = start.replace("rmdir .", "rmdir ../gone")
    result = subprocess.run(
        ["sh", "-c", f"{start} -m alexnet_dali.{module} evaluate"],
        cwd=tmp_path / "gone",
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_compiler_cache_that_can_not_be_made_is_left_aside(tmp_path):
    """torch._dynamo, which every optimizer imports, would end in an error of half an import."""
    (tmp_path / "file").touch()
    result = subprocess.run(
        [sys.executable, "-c", "import alexnet_dali.train.__main__, torch._dynamo"],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "file" / "cache")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: TORCHINDUCTOR_CACHE_DIR") and "Not a directory" in line
