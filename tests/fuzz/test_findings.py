"""What fuzzing found, a case each; the examples of the other files are more of them."""

import errno
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from alexnet_dali.pipeline.arrays import read_arrays
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives.tree import open_tree
from alexnet_dali.pipeline.prepare.journal import Journal
from alexnet_dali.pipeline.prepare.labels import devkit
from alexnet_dali.pipeline.prepare.records import Findings
from alexnet_dali.pipeline.prepare.sources import training_files
from alexnet_dali.pipeline.reading.archives import read
from alexnet_dali.train.record.metrics import Monitor, read_metrics
from tests.fuzz.harness import bounded, huge_npy, zipped
from tests.fuzz.test_archives import CLASSES, IMAGE, tarred
from tests.fuzz.test_texts import TRUTH, TRUTH_NAME, meta


@pytest.mark.parametrize("place, value", [(296, 0), (340, 0), (360, 255)])
def test_a_table_that_kills_scipy_ends_in_a_message(place, value, tmp_path):
    """loadmat would take the whole preparation with it (segmentation fault)."""
    table = bytearray(meta())
    table[place] = value
    (tmp_path / "meta.mat").write_bytes(table)
    (tmp_path / TRUTH_NAME).write_bytes(TRUTH)
    with pytest.raises(DatasetError, match="expected those of ImageNet's development kit"):
        devkit.labels(tmp_path)


def test_a_table_with_numbers_of_any_kind_is_understood(tmp_path):
    """MATLAB's own are floats."""
    (tmp_path / "meta.mat").write_bytes(meta(ids=(1.0, 2.0, 3.0)))
    (tmp_path / TRUTH_NAME).write_bytes(TRUTH)
    assert [synset for _, synset in devkit.labels(tmp_path)][:3] == ["n01", "n01", "n02"]


def test_a_zip_entry_that_claims_gigabytes_takes_none(tmp_path):
    """It was taken for a lack of memory, which ended the preparation."""
    data = bytearray(zipped(dict(CLASSES)))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 20, 2**32 - 2)
    (tmp_path / "a.zip").write_bytes(data)
    source = training_files(tmp_path / "a.zip").source
    with bounded(), pytest.raises(ValueError, match="checksum"):
        source.content(0)
    assert len(read(str(tmp_path / "a.zip"), 3, 2**60)) == len(data) - 3


def test_a_zip_entry_without_a_name_ends_in_a_message(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({**dict(CLASSES), "x": b""}).replace(b"x", b"\0"))
    names = [entry.filename for entry in zipfile.ZipFile(tmp_path / "a.zip").infolist()]
    assert "" in names
    open_tree(tmp_path / "a.zip")


@pytest.mark.parametrize("label", ["\ud800", "a\nb"])
def test_a_label_that_no_list_can_hold_is_found_at_the_beginning(label, tmp_path):
    """Half a character was found when classes.txt was written, after hours."""
    members = [("0.jpg", IMAGE), ("0.json", json.dumps({"label": label}).encode())]
    (tmp_path / "a.tar").write_bytes(tarred([*members, ("1.jpg", IMAGE), ("1.cls", b"b")]))
    with pytest.raises(DatasetError, match="no list of classes can hold"):
        training_files(tmp_path / "a.tar")


def test_a_name_with_a_zero_byte_is_refused(tmp_path):
    """It ended the preparation when its image was stored."""
    entry = ("train/b/x.jpg", IMAGE, {"pax_headers": {"path": "train/b/a\0b.jpg"}})
    (tmp_path / "a.tar").write_bytes(tarred([*CLASSES, entry], tarfile.PAX_FORMAT))
    with pytest.raises(ValueError, match=r"a\.tar: train/b/a\\x00b\.jpg holds a zero byte"):
        open_tree(tmp_path / "a.tar")


def test_arrays_that_claim_more_than_their_file_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, total=np.zeros(10_000_000))
    with bounded(), pytest.raises(ValueError, match=r"a\.npz can't be read .*compressed"):
        read_arrays(path)
    path.write_bytes(zipped({"total.npy": huge_npy()}))
    with bounded(), pytest.raises(ValueError, match=r"a\.npz can't be read"):
        read_arrays(path)


def test_a_changed_byte_in_the_ledger_is_no_other_finding(tmp_path):
    """Another size or reason would go into the list."""
    journal = Journal(tmp_path / "val")
    found = Findings.none(2)
    found.rows["size"][0] = 3, 4
    found.remarks[1] = "damaged"
    journal.add(found, None)
    journal.save((0, 0))
    for name, old, new in (("val.rows", b"\3", b"\5"), ("val.remarks", b"damaged", b"Damaged")):
        content = (tmp_path / name).read_bytes()
        assert Journal(tmp_path / "val").findings().reasons() == {1: "damaged"}
        (tmp_path / name).write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=rf"{name}, .*its checksum differs.*begin afresh"):
            Journal(tmp_path / "val")
        (tmp_path / name).write_bytes(content)


def test_a_disk_that_fails_gives_up_no_ledger(tmp_path, monkeypatch):
    """A ValueError would delete what was done so far."""
    journal = Journal(tmp_path / "val")
    journal.save((0, 0))

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(OSError, match=r"val\.npz can't be read now \(Input/output error\)"):
        Journal(tmp_path / "val")


def test_lines_of_another_kind_do_not_stop_a_resume(tmp_path):
    whole = b'{"step": 2, "epoch": 0, "train/loss": 1.5}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'3\n[]\n{"step": "x"}\nnull\n' + whole + b"[" * 5000 + b"\n\xff\n")
    with pytest.raises(ValueError, match="is damaged"):
        read_metrics(tmp_path, "train/loss")
    Monitor(tmp_path, 4, lambda: None).close()
    assert path.read_bytes() == whole and read_metrics(tmp_path, "train/loss") == {2: 1.5}
