import errno
import os
import pickle
import random
import resource
import signal
import zipfile
from collections import OrderedDict
from contextlib import contextmanager

import pytest
import torch

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig
from alexnet_dali.pipeline.system.files import atomic_write
from alexnet_dali.train.checkpoints import checkpoint, checksum
from alexnet_dali.train.checkpoints.checkpoint import CheckpointError, VersionError
from alexnet_dali.train.checkpoints.run_folder import Claim, RunFolder, claim, read_config
from alexnet_dali.train.config import Config, to_dict
from alexnet_dali.train.parallel.ranks import Ranks


def state(step):
    return {
        "step": step,
        "model": {"w": torch.arange(5.0)},
        "momentum": {"w": torch.zeros(5)},
        "lr": 0.01,
        "schedule": {"completed": 0, "by_hand": None},
        "intervals": torch.zeros(1, 3, dtype=torch.float64),
        "config": {},
        "classes": ["a", "b"],
        "names": ["one", "two"],
        "stats": {},
        "dataset": "0" * 64,
        "best": {"top1_error": 0.5, "epoch": 1, "last_error": 0.5},
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


def test_weights_of_caffe_are_known_for_what_they_are(tmp_path):
    (tmp_path / "bvlc_alexnet.caffemodel").write_bytes(b"\n\x0bAlexNet")
    with pytest.raises(CheckpointError, match=r"Caffe's weights, .* alexnet import-weights"):
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


def write(path, content, seal=True):
    torch.save(content, path)
    if seal:
        with open(path, "r+b") as file:
            checksum.seal(file)


def test_a_checkpoint_says_its_format_and_what_its_network_tells(tmp_path):
    checkpoint.save(tmp_path, state(1), keep=2)
    content = torch.load(checkpoint.newest(tmp_path), weights_only=True)
    assert content["format"] == 2 and content["targets"] == "classes"
    assert checkpoint.load(checkpoint.newest(tmp_path)).keys() == state(1).keys()


CURRENT = {"format": 2, "targets": "classes", **state(1)}
AS_0_2 = {key: value for key, value in state(1).items() if key not in ("names", "best")}
EARLIER = [{"format": 1, **state(1)}, {"format": 1, **AS_0_2}, AS_0_2]
LATER = [
    CURRENT | {"format": 3},
    {"format": 4, **AS_0_2, "ema": {}},
    CURRENT | {"targets": "boxes"},
]


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "not sealed"])
@pytest.mark.parametrize(
    "content, message",
    [(content, r"version 0\.2.* train again$") for content in EARLIER]
    + [(content, "later version") for content in LATER],
)
def test_another_version_is_named_and_never_called_damage(content, message, seal, tmp_path):
    """Version 0.2 did not seal what it wrote."""
    folder = tmp_path / "run/checkpoints"
    checkpoint.save(folder, state(1), keep=2)
    path = folder / "step-0000000002.pt"
    write(path, content, seal)
    (tmp_path / "run/config.yaml").write_text("data: {crops_and_flips: true}")
    for use in (
        lambda: checkpoint.load(path),
        lambda: checkpoint.newest_sound(folder),
        lambda: read_config(tmp_path / "run"),
        lambda: claim(tmp_path / "run", Config()),
    ):
        with pytest.raises(VersionError, match=message) as error:
            use()
        assert str(path) in str(error.value) and "damaged" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": True}, "expected 2 in format"),
        ({"format": 2.0}, "expected 2 in format"),
        ({"targets": 7}, "expected classes in targets"),
        ({"step": -1}, "a number of steps in step"),
        ({"lr": float("nan")}, "a learning rate in lr"),
        ({"schedule": {"completed": 0}}, "numbers of a schedule"),
        ({"schedule": {"completed": 0, "by_hand": [0.1]}}, "numbers of a schedule"),
        ({"momentum": {"w": torch.zeros(4)}}, "momentum is of another network"),
        ({"names": ["one"]}, "names are not one for each class"),
        ({"best": {}}, "two errors and an epoch in best"),
        ({"more": 1}, "expected format, targets, step"),
    ],
)
def test_content_of_another_kind_is_refused(change, message, tmp_path):
    write(tmp_path / "x.pt", CURRENT)
    assert checkpoint.load(tmp_path / "x.pt")["step"] == 1
    write(tmp_path / "x.pt", CURRENT | change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path / "x.pt")


def test_a_checkpoint_without_its_own_checksum_is_refused(tmp_path):
    write(tmp_path / "x.pt", CURRENT, seal=False)
    with pytest.raises(CheckpointError, match="no checksum of its own"):
        checkpoint.load(tmp_path / "x.pt")


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


def test_a_disk_that_fails_for_a_moment_damages_no_checkpoint(tmp_path, monkeypatch):
    """The one before would be another run; where the disk fails for good, nothing is resumed."""
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step), keep=2)
    errors = [OSError(errno.EIO, os.strerror(errno.EIO)), OSError(errno.ESTALE, "stale")]
    sound = checksum.damage

    def fails_twice(path):
        if errors:
            raise errors.pop()
        return sound(path)

    monkeypatch.setattr(checksum, "damage", fails_twice)
    monkeypatch.setattr(checkpoint, "_PAUSE", 0.01)
    found, _, damaged = checkpoint.newest_sound(tmp_path)
    assert found.name == "step-0000000002.pt" and not damaged and not errors
    monkeypatch.setattr(checkpoint, "_DISK", 0.05)
    errors += [OSError(errno.EIO, os.strerror(errno.EIO))] * 100
    with pytest.raises(OSError, match=r"step-0000000002\.pt can't be read .*rerun the command"):
        checkpoint.newest_sound(tmp_path)


@pytest.fixture
def folders(dataset, tmp_path):
    """The run's folder as the main rank sees it, and as another rank does."""
    columns = Columns.whole(2)
    return [
        RunFolder(tmp_path / "run", dataset, 3, Ranks(rank, 2, torch.device("cpu"), 1, columns))
        for rank in range(2)
    ]


@pytest.fixture
def saved(dataset, tmp_path):
    """A run's folder with checkpoints of a tiny network, after steps 1 and 2."""
    model = AlexNet(ModelConfig(**SMALL), 3, 56)
    weights = {"model": model.full_state(), "momentum": model.full_state()}
    for step in (1, 2):
        about = {"config": to_dict(Config()), "dataset": dataset.fingerprint}
        checkpoint.save(tmp_path / "run/checkpoints", state(step) | weights | about, keep=2)
    return model


SMALL = {"kernels": [8, 12, 16, 16, 12], "conv1_size": 5, "conv1_stride": 2, "fc_width": 24}


def test_all_ranks_open_the_checkpoint_that_the_main_rank_has_checked(saved, folders, monkeypatch):
    """Another rank lists nothing, reads no byte that it does not need, and sees the file late."""
    main, other = folders
    claims = [folder.claim(Config()) for folder in folders]
    assert main.resume(claims, saved)["step"] == 2
    main.release()

    def not_here(path):
        raise AssertionError("a rank lists the folder, or checks the whole file")

    for name in ("_all", "load"):
        monkeypatch.setattr(checkpoint, name, not_here)
    monkeypatch.setattr(checksum, "damage", not_here)
    monkeypatch.setattr(checkpoint, "_PAUSE", 0.01)
    path = main._checkpoints / "step-0000000002.pt"
    seen, path_there = [], path.with_suffix(".late")
    path.rename(path_there)

    def sleep(seconds):
        seen.append(seconds)
        if len(seen) == 3:
            path_there.rename(path)

    monkeypatch.setattr(checkpoint.time, "sleep", sleep)
    assert other.resume(claims, saved)["step"] == 2 and len(seen) == 3


@pytest.mark.parametrize("there", ["nothing", "another checkpoint"])
def test_a_rank_with_another_folder_says_so(there, saved, folders, monkeypatch):
    main, other = folders
    claims = [folder.claim(Config()) for folder in folders]
    main.release()
    path = main._checkpoints / "step-0000000002.pt"
    path.unlink()
    if there == "another checkpoint":
        checkpoint.save(
            path.parent, checkpoint.load(checkpoint.newest(path.parent)) | {"step": 2}, 2
        )
    monkeypatch.setattr(checkpoint, "_SERVER", 0.0)
    with pytest.raises(CheckpointError, match=r"run\.dir must be the same folder on every machine"):
        other.resume(claims, saved)


def test_every_rank_raises_what_the_main_rank_was_refused_for(folders, saved, tmp_path):
    """In its kind: a full disk may pass, and torchrun starts the ranks again."""
    for error in (OSError(errno.ENOSPC, "No space left"), ValueError("in use")):
        claims = pickle.loads(pickle.dumps([Claim("x", error), Claim("x")]))
        for folder in folders:
            with pytest.raises(type(error), match=str(error.args[-1])):
                folder.resume(claims, saved)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoint.load(tmp_path / "bomb.pt")


class Full:
    """A file on a disk that is full after a million bytes."""

    def __init__(self, file):
        self._file, self._free = file, 1_000_000

    def write(self, data):
        self._free -= len(memoryview(data).cast("B"))
        if self._free < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def flush(self):
        self._file.flush()


def test_a_full_disk_says_how_much_is_needed_and_what_stands(tmp_path, monkeypatch):
    """torch reports it as an error of its own, in the middle of the file."""
    checkpoint.save(tmp_path, state(1), keep=2)
    large = state(2) | {"model": {"w": torch.zeros(1_000_000)}}

    @contextmanager
    def full(path):
        with atomic_write(path) as file:
            yield Full(file)

    monkeypatch.setattr(checkpoint, "atomic_write", full)
    said = r"No space left on device; it takes 4 MB, .*step-0000000001\.pt; make room and"
    with pytest.raises(OSError, match=said):
        checkpoint.save(tmp_path, large, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.pt"]


def test_a_limit_of_file_sizes_is_no_full_disk(tmp_path):
    checkpoint.save(tmp_path, state(1), keep=2)
    large = state(2) | {"model": {"w": torch.zeros(1_000_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    said = r"File too large; it takes 4 MB\); .*step-0000000001\.pt; raise the limit \(ulimit -f,"
    try:
        with pytest.raises(OSError, match=said) as caught:
            checkpoint.save(tmp_path, large, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free" not in str(caught.value) and "make room" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.pt"]
