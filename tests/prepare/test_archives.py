"""ImageNet as it is downloaded: archives of archives, and the development kit's labels."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives.tar import tar_entries
from alexnet_dali.tools import prep_imagenet
from tests.feeding import plain, shown, training_plan
from tests.images import write_class_folders

SYNSETS = ["n01", "n02", "n03"]


@pytest.fixture
def imagenet(tmp_path):
    """Class folders, and the same files as ILSVRC2012's two archives."""
    write_class_folders(tmp_path / "train", dict.fromkeys(SYNSETS, 6), seed=1)
    write_class_folders(tmp_path / "flat", {"all": 7}, seed=2)
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for synset in reversed(SYNSETS):  # not in sorted order
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for path in sorted((tmp_path / "train" / synset).iterdir(), reverse=True):
                    tar.add(path, path.name)
            entry = tarfile.TarInfo(f"{synset}.tar")
            entry.size = inner.tell()
            inner.seek(0)
            outer.addfile(entry, inner)
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for number, path in enumerate(sorted((tmp_path / "flat/all").iterdir()), 1):
            tar.add(path, f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


def places(path):
    """The files' places by name; the last one of a name counts."""
    return {name: place for name, place in tar_entries(path) if place is not None}


def devkit(folder, truth, packed):
    """Write a development kit with the labels `truth`, as a folder or packed.

    It numbers classes in an order of its own, and lists inner nodes after the leaves.
    """
    data = folder / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    ids = np.array([1, 2, 3, 4], np.uint16)
    names = np.array(["n03", "n01", "n02", "n99"], object)
    fields = [("ILSVRC2012_ID", object), ("WNID", object)]
    savemat(data / "meta.mat", {"synsets": np.array([*zip(ids, names)], fields).reshape(-1, 1)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{number}\n" for number in truth)
    )
    if not packed:
        return folder / "ILSVRC2012_devkit_t12"
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as tar:
        tar.add(folder / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    return folder / "devkit.tar.gz"


def prep(*arguments):
    prep_imagenet.main([str(argument) for argument in arguments])
    return Dataset.open(arguments[-1])


@pytest.mark.parametrize("packed", [True, False])
def test_archives_and_devkit_give_the_same_data_as_class_folders(imagenet, packed):
    kit = devkit(imagenet, [1, 2, 3, 3, 2, 1, 1], packed)
    val = ["--val", imagenet / "val.tar", "--val-labels", kit]
    archive = prep("--train", imagenet / "train.tar", *val, "--out", imagenet / "from_archives")
    folders = prep(
        "--train", imagenet / "train", "--hold-out", "0.1", "--out", imagenet / "from_folders"
    )
    assert archive.classes == folders.classes == SYNSETS
    assert archive.val.labels.tolist() == [2, 0, 1, 1, 0, 2, 2]
    whole = prep(
        "--train", imagenet / "train", "--val", imagenet / "train", "--out", imagenet / "whole"
    )
    for index in range(18):
        np.testing.assert_array_equal(archive.train.content(index), whole.train.content(index))
        assert archive.train.path(index).endswith(
            "train.tar/" + whole.train.path(index).split("train/")[1]
        )
    store = prep(
        "--train", imagenet / "train.tar", *val, "--resize", 64, "--out", imagenet / "stored"
    )
    assert (
        store.train.name(0) == "n01/000.jpg" and store.val.name(0) == "ILSVRC2012_val_00000001.jpg"
    )
    np.testing.assert_array_equal(archive.stats.mean_image, whole.stats.mean_image)
    plan = training_plan(archive.train)
    batches = [shown(prepared.train, plan, plain(80)) for prepared in (archive, whole)]
    for one, other in zip(*batches, strict=True):
        assert one.images.equal(other.images) and one.labels.equal(other.labels)


def test_a_compressed_archive_is_an_error(imagenet):
    with tarfile.open(imagenet / "packed.tar", "w:gz") as tar:
        tar.add(imagenet / "train")
    with pytest.raises(ValueError, match=r"is compressed with gzip.*gunzip -k"):
        prep("--train", imagenet / "packed.tar", "--hold-out", "0.5", "--out", imagenet / "out")


def test_a_devkit_that_lacks_a_file_is_an_error(imagenet):
    kit = devkit(imagenet, [1] * 7, packed=False)
    shutil.move(kit / "data/meta.mat", kit / "data/meta.bak")
    with pytest.raises(DatasetError, match=r"lacks meta\.mat"):
        prep(
            "--train",
            imagenet / "train",
            "--val",
            imagenet / "val.tar",
            "--val-labels",
            kit,
            "--out",
            imagenet / "o",
        )


def test_a_half_holds_out_half_of_each_class_by_seed(imagenet):
    halves = [
        prep(
            "--train",
            imagenet / "train",
            "--hold-out",
            0.5,
            "--seed",
            seed,
            "--out",
            imagenet / f"half{seed}",
        )
        for seed in (0, 1)
    ]
    for half in halves:
        assert (
            np.bincount(half.train.labels).tolist()
            == np.bincount(half.val.labels).tolist()
            == [3, 3, 3]
        )
        paths = {part.path(i) for part in (half.train, half.val) for i in range(9)}
        assert len(paths) == 18
    assert halves[0].fingerprint != halves[1].fingerprint


@pytest.fixture
def flat(tmp_path):
    """An archive of twelve files of 900 bytes, and its path."""
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        for number in range(12):
            entry = tarfile.TarInfo(f"{number:02d}.jpg")
            entry.size = 900
            tar.addfile(entry, io.BytesIO(bytes([number]) * 900))
    return tmp_path / "flat.tar"


@pytest.mark.parametrize(
    "damage", ["hole", "garbage", "cut in a header", "cut between files", "cut in a file", "no end"]
)
def test_a_damaged_archive_is_an_error_and_never_a_smaller_archive(flat, damage):
    """Each file takes 512 bytes of header and 1024 of data.

    At most kinds of damage, tarfile itself stops without an error.
    """
    whole, header = flat.read_bytes(), 5 * 1536
    assert [place.size for place in places(flat).values()] == [900] * 12
    damaged = {
        "hole": whole[:header] + bytes(1536) + whole[header + 1536 :],
        "garbage": whole[:header] + bytes(range(256)) * 2 + whole[header + 512 :],
        "cut in a header": whole[: header + 100],
        "cut between files": whole[:header],
        "cut in a file": whole[: header + 512 + 300],
        "no end": whole[: 12 * 1536],
    }
    flat.write_bytes(damaged[damage])
    with pytest.raises(
        ValueError, match=r"flat\.tar: (expected a whole tar archive|flat\.tar is damaged)"
    ):
        places(flat)


def test_a_damaged_inner_archive_is_an_error(flat, tmp_path):
    inner = flat.read_bytes()[: 7 * 1536]
    with tarfile.open(tmp_path / "outer.tar", "w") as tar:
        entry = tarfile.TarInfo("n01.tar")
        entry.size = len(inner)
        tar.addfile(entry, io.BytesIO(inner))
    with pytest.raises(ValueError, match=r"n01\.tar is damaged or cut short behind 7 files"):
        places(tmp_path / "outer.tar")


def test_hard_links_and_repeated_names_are_read_and_unsafe_names_refused(tmp_path):
    def archive(*entries):
        with tarfile.open(tmp_path / "odd.tar", "w") as tar:
            for name, kind, content in entries:
                entry = tarfile.TarInfo(name)
                entry.type = kind
                entry.linkname = content if kind != tarfile.REGTYPE else ""
                entry.size = len(content) if kind == tarfile.REGTYPE else 0
                tar.addfile(entry, io.BytesIO(content.encode()) if entry.size else None)
        return tmp_path / "odd.tar"

    path = archive(("a/1.jpg", tarfile.REGTYPE, "one"), ("a/2.jpg", tarfile.LNKTYPE, "a/1.jpg"))
    found = places(path)
    assert found["a/2.jpg"] == found["a/1.jpg"]
    assert found["a/2.jpg"].content(tmp_path).tobytes() == b"one"
    path = archive(
        ("1.jpg", tarfile.REGTYPE, "old"),
        ("2.jpg", tarfile.REGTYPE, "two"),
        ("1.jpg", tarfile.REGTYPE, "new"),
    )
    found = {name: place.content(tmp_path).tobytes() for name, place in places(path).items()}
    assert found == {"1.jpg": b"new", "2.jpg": b"two"}
    for odd, message in [
        (("../1.jpg", tarfile.REGTYPE, "x"), r"\.\./1\.jpg leads out"),
        (("/etc/1.jpg", tarfile.REGTYPE, "x"), "leads out"),
        (("1.jpg", tarfile.SYMTYPE, "2.jpg"), "symbolic link"),
        (("1.jpg", tarfile.LNKTYPE, "2.jpg"), "does not come before it"),
    ]:
        with pytest.raises(ValueError, match=message):
            places(archive(odd))
