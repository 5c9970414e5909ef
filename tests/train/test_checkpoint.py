import errno
import random
import resource
import signal
import zipfile
from collections import OrderedDict

import pytest
import torch

from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.checkpoints.checkpoint import CheckpointError


def state(step):
    return {
        "step": step,
        "model": {"w": torch.arange(5.0)},
        "momentum": {"w": torch.zeros(5)},
        "lr": 0.01,
        "schedule": {"completed": 0},
        "intervals": torch.zeros(1, 3, dtype=torch.float64),
        "config": {},
        "classes": ["a", "b"],
        "stats": {},
        "dataset": "0" * 64,
    }


def test_a_checkpoint_loads_as_saved_and_only_the_newest_are_kept(tmp_path):
    for step in (8, 9, 10, 100):
        checkpoint.save(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000010.pt",
        "step-0000000100.pt",
    ]
    loaded = checkpoint.load(checkpoint.newest(tmp_path))
    assert loaded["step"] == 100 and torch.equal(loaded["model"]["w"], torch.arange(5.0))


def test_a_failed_save_leaves_earlier_checkpoints_unchanged(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), keep=2)
    before = (tmp_path / "step-0000000001.pt").read_bytes()

    def half(value, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    for step in (1, 2):
        with pytest.raises(
            OSError,
            match=r"can't be written .*newest checkpoint is .*step-0000000001\.pt; make room",
        ):
            checkpoint.save(tmp_path, state(step), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.pt"]
    assert (tmp_path / "step-0000000001.pt").read_bytes() == before


def test_a_checkpoint_that_must_not_be_written_says_why_and_what_stands(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), keep=2)

    def refuse(value, file):
        raise OSError(errno.EROFS, "Read-only file system", "x")

    monkeypatch.setattr(torch, "save", refuse)
    stands = r"written \(Read-only file system\); .*step-0000000001\.pt; once .* can be written"
    with pytest.raises(OSError, match=stands):
        checkpoint.save(tmp_path, state(2), keep=2)


def test_a_missing_folder_has_no_newest_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        checkpoint.load(tmp_path / "text.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "other.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as torchvision serves it"])
def test_weights_of_torchvision_are_known_for_another_network(zipped, tmp_path):
    keys = ("features.0.weight", "features.0.bias", "classifier.6.weight", "classifier.6.bias")
    weights = OrderedDict((key, torch.zeros(2)) for key in keys)
    torch.save(weights, tmp_path / "alexnet.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"torchvision's .* one column .* no response norm"):
        checkpoint.load(tmp_path / "alexnet.pth")


def test_weights_of_caffe_are_known_for_another_network(tmp_path):
    (tmp_path / "bvlc_alexnet.caffemodel").write_bytes(b"\n\x0bAlexNet")
    with pytest.raises(CheckpointError, match="Caffe's weights, of another network"):
        checkpoint.load(tmp_path / "bvlc_alexnet.caffemodel")


def test_a_flipped_bit_is_found_in_every_byte_of_the_file(tmp_path):
    checkpoint.save(tmp_path, state(1), keep=2)
    path, rng = checkpoint.newest(tmp_path), random.Random(0)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_a_checkpoint_of_an_earlier_version_has_the_members_checksums_alone(tmp_path):
    path = tmp_path / "step-0000000001.pt"
    torch.save({"format": 1, **state(1)}, path)
    assert checkpoint.load(path)["step"] == 1
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(torch.arange(5.0).numpy().tobytes()) + 3] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"the checksum of .* differs"):
        checkpoint.load(path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "a folder"])
def test_the_checkpoint_before_a_damaged_one_is_used(damage, tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step), keep=2)
    path = tmp_path / "step-0000000002.pt"
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(5.0).numpy().tobytes()) + 3] ^= 4
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"flipped": data, "cut": data[:-300], "emptied": b""}[damage])
    found, saved, damaged = checkpoint.newest_sound(tmp_path)
    assert found.name == "step-0000000001.pt" and saved["step"] == 1
    assert len(damaged) == 1 and str(path) in damaged[0]
    found.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound"):
        checkpoint.newest_sound(tmp_path)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoint.load(tmp_path / "bomb.pt")


def test_a_full_disk_says_how_much_is_needed_and_what_stands(tmp_path, monkeypatch):
    """torch reports it as an error of its own, in the middle of the file."""
    checkpoint.save(tmp_path, state(1), keep=2)
    large = state(2) | {"model": {"w": torch.zeros(1_000_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"takes 4 MB, .*step-0000000001\.pt; make room and"):
            checkpoint.save(tmp_path, large, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.pt"]
