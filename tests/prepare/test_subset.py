"""Subsets of prepared folders, against folders that were prepared from the subset's own images."""

import shutil

import numpy as np
import pytest
import yaml

from alexnet_dali.pipeline import CentreCrop, DataLoader
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import prep_imagenet, subset
from tests.images import write_class_folders

CLASSES = {"n01": 6, "n02": 4, "n03": 7, "n04": 5}
NAMES = "n01 tench, Tinca tinca\nn02 crane\nn03 crane\nn04 sports car, sport car\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        write_class_folders(folder / split, CLASSES, sides=(30, 60))
    (folder / "words.txt").write_text(NAMES)
    return folder


def prep(images, out, *options):
    arguments = ["--train", images / "train", "--val", images / "val", "--out", out, *options]
    prep_imagenet.main([str(argument) for argument in arguments])
    return Dataset.open(out)


@pytest.fixture(scope="module", params=[(), ("--resize", 32), ("--resize", 32, "--shards")])
def whole(images, tmp_path_factory, request):
    return prep(images, tmp_path_factory.mktemp("whole") / "prepared", *request.param)


def choose(whole, out, *options, lines=None):
    arguments = [whole.folder, "--out", out / "subset", *options]
    if lines is not None:
        (out / "classes.txt").write_text(lines)
        arguments += ["--classes", out / "classes.txt"]
    subset.main([str(argument) for argument in arguments])
    return Dataset.open(out / "subset")


def labelled(dataset, split):
    images = getattr(dataset, split)
    for index in range(len(images)):
        yield images.name(index).split("/")[-1], dataset.classes[images.labels[index]]


def test_a_subset_lists_what_its_own_images_would_when_prepared(images, whole, tmp_path):
    few = choose(whole, tmp_path, lines="n04\n\ntench\n")
    for split in ("train", "val"):
        for name in ("n01", "n04"):
            shutil.copytree(images / split / name, tmp_path / "few" / split / name)
    apart = prep(tmp_path / "few", tmp_path / "apart")
    assert few.classes == ["n04", "n01"]
    assert few.names == ["sports car, sport car", "tench, Tinca tinca"]
    for split in ("train", "val"):
        stems = {(name.rsplit(".")[0], label) for name, label in labelled(few, split)}
        expected = {(name.rsplit(".")[0], label) for name, label in labelled(apart, split)}
        assert stems == expected and len(getattr(few, split)) == len(expected)
        assert (np.diff(getattr(few, split).labels) >= 0).all()


def test_images_and_statistics_are_those_of_the_whole(whole, tmp_path):
    few = choose(whole, tmp_path, lines="n03\nn02 whatever follows\n")
    order = np.concatenate([np.flatnonzero(whole.val.labels == label) for label in (2, 1)])
    for index, of_whole in enumerate(order):
        np.testing.assert_array_equal(few.val.content(index), whole.val.content(int(of_whole)))
        np.testing.assert_array_equal(few.val.sizes[index], whole.val.sizes[of_whole])
    np.testing.assert_array_equal(few.stats.mean_image, whole.stats.mean_image)
    about = yaml.safe_load((few.folder / "dataset.yaml").read_text())
    assert about["subset_of"] == {"folder": str(whole.folder), "fingerprint": whole.fingerprint}
    assert about["train_images"] == 11 and "statistics" in about
    said = (few.folder / "README.md").read_text()
    assert f"`{few.train.root}`" in said and "path, space, label. " in said


def test_so_many_images_of_each_class_are_drawn_by_the_seed(whole, tmp_path):
    drawn = {}
    for name, seed in (("one", "1"), ("again", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        few = choose(whole, tmp_path / name, "--per-class", "3", "--seed", seed)
        assert np.bincount(few.train.labels).tolist() == [3] * 4
        assert len(few.val) == len(whole.val)
        drawn[name] = [*labelled(few, "train")]
        assert len(set(drawn[name])) == 12 and set(drawn[name]) <= {*labelled(whole, "train")}
    assert drawn["one"] == drawn["again"] != drawn["other"]


def test_a_loader_reads_a_subset_of_a_subset(whole, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = choose(whole, tmp_path / "first", lines="n04\nn01\n")
    second = choose(first, tmp_path / "second", lines="n01\n")
    loader = DataLoader(second.folder, split="val", global_batch_size=6, crops=CentreCrop(24, 32))
    shown, labels = next(iter(loader))
    at_whole = DataLoader(whole.folder, split="val", global_batch_size=6, crops=CentreCrop(24, 32))
    expected, _ = next(iter(at_whole))
    assert labels.tolist() == [0] * 6
    np.testing.assert_array_equal(shown.numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n01\nn09\nn10\n", "found n09, n10"),
        ("n01\nsprots car\n", "did you mean 'sports car'"),
        ("crane\n", "'crane' is the name of n02, n03; write one of them"),
        ("n01\ntench\n", "'tench' is class n01 once more"),
        ("\n\n", "found nothing"),
    ],
)
def test_lines_that_are_no_class_are_named(whole, tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        choose(whole, tmp_path, lines=lines)
    assert not (tmp_path / "subset").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per-class", "5"], "class n02 has 4 training images"),
        (["--per-class", "0"], "--per-class is 0"),
        ([], "expected --classes FILE, --per-class N, or both"),
    ],
)
def test_options_that_can_not_be_followed_are_refused(whole, tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        choose(whole, tmp_path, *options)
