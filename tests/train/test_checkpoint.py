import pytest
import torch

from train import checkpoint
from train.checkpoint import CheckpointError


def state(step):
    return dict.fromkeys(checkpoint._KEYS - {"format"}, None) | {
        "step": step,
        "model": {"w": torch.arange(5.0)},
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
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, state(1), keep=2)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, state(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.pt"]
    assert (tmp_path / "step-0000000001.pt").read_bytes() == before


def test_a_missing_folder_has_no_newest_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "text.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "other.pt")
