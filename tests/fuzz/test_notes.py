"""What an interrupted run or preparation left: metrics.jsonl, and the journal of what was found."""

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.pipeline.prepare.journal import Journal
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.stats import PixelSums
from alexnet_dali.train.record.metrics import Monitor, read_metrics
from tests.fuzz.harness import altered, damaged, works_or_says

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
    Monitor(run, 4, lambda: None).close()
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


def found(number):
    """Of two files, the second of which can't be used."""
    findings = Findings.none(2)
    findings.rows["size"][0] = 3, 4 + number
    findings.rows["stamp"] = 5, number
    findings.remarks[1] = f"damaged {number}"
    return findings


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A journal of ten files, the last four of which were found after it was saved."""
    folder = tmp_path_factory.mktemp("notes")
    journal = Journal(folder / "val")
    for number in range(3):
        journal.add(found(number), PixelSums())
    journal.save((0, 7))
    for number in range(3, 5):
        journal.add(found(number), None)
    assert len(journal.findings().rows) == 10
    return folder


def taken_up(notes, place, name, data):
    for file in notes.iterdir():
        shutil.copyfile(file, place / file.name)
    (place / name).write_bytes(data)
    whole = [found(number) for number in range(3)]

    def resume():
        journal = Journal(place / "val")
        rows, remarks = journal.findings()
        assert len(rows) == journal.done == 6 and journal.position == (0, 7)
        assert rows.tobytes() == b"".join(one.rows.tobytes() for one in whole)
        assert remarks == {2 * number + 1: f"damaged {number}" for number in range(3)}

    works_or_says(resume, str(place))


@given(data=st.data())
@pytest.mark.parametrize("name", ["val.rows", "val.remarks", "val.npz"])
def test_the_ledger(name, data, notes, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "journal"
    place.mkdir(exist_ok=True)
    taken_up(notes, place, name, data.draw(damaged((notes / name).read_bytes())))
