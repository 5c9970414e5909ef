"""What an interrupted run or preparation left: metrics.jsonl, and the ledger of what was found."""

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.prepare.ledger import Finding, Ledger
from tests.fuzz.harness import altered, damaged, works_or_says
from train.monitor import Monitor, read_metrics

TAG = "train/loss"
LINES = [json.dumps({"step": step, "epoch": 0, TAG: 1 / step}).encode() for step in range(1, 9)]
METRICS = b"".join(line + b"\n" for line in LINES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def resumed(run, data):
    """The metrics are read as they are; a run that resumes mends them."""
    path = run / "metrics.jsonl"
    path.write_bytes(data)
    works_or_says(lambda: read_metrics(run, TAG), str(path))
    Monitor(run, 4).close()
    found = read_metrics(run, TAG)
    assert all(step <= 4 for step in found)
    for events in run.glob("events*"):
        events.unlink()


@given(data=damaged(METRICS))
@example(data=b"3\n[]\n" + LINES[0] + b"\n")
@example(data=b'{"step": "x"}\n{"step": null}\n{"step": [1]}\n')
@example(data=b"[" * 500 + b"\n")
@example(data=b'{"step": 1, "train/loss": "x"}\n')
@example(data=b'{"step": 1, "train/loss": "\xff"}\n')
@example(data=b'{"step": 1, "train/loss": 1}\r{"step": 2, "train/loss": 1}\n')
def test_metrics(data, run):
    resumed(run, data)


@given(lines=st.lists(altered({"step": 2, "epoch": 1, TAG: 0.5}), max_size=4))
def test_metrics_of_other_values(lines, run):
    resumed(run, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


FINDINGS = [Finding(f"{i}.jpg", (3, 4), "", "", (1, 2, 3), [5, 6]) for i in range(5)]


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A ledger of five files, the last two of which were found after it was saved."""
    folder = tmp_path_factory.mktemp("notes")
    ledger = Ledger(folder / "val.jsonl")
    for finding in FINDINGS[:3]:
        ledger.add(finding)
    ledger.save((0, 7))
    for finding in FINDINGS[3:]:
        ledger.add(finding)
    assert len(ledger.findings()) == 5
    return folder


def taken_up(notes, place, name, data):
    for file in notes.iterdir():
        shutil.copyfile(file, place / file.name)
    (place / name).write_bytes(data)
    found = []

    def resume():
        ledger = Ledger(place / "val.jsonl")
        found.extend(ledger.findings())
        assert len(found) == ledger.done

    error = works_or_says(resume, str(place))
    assert (
        error
        or not found
        or [tuple(one)[:1] for one in found]
        == [(finding.name,) for finding in FINDINGS[: len(found)]]
    )


@given(data=st.data())
@pytest.mark.parametrize("name", ["val.jsonl", "val.npz"])
def test_the_ledger(name, data, notes, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "ledger"
    place.mkdir(exist_ok=True)
    taken_up(notes, place, name, data.draw(damaged((notes / name).read_bytes())))
