"""A third list: test images, which training never reads."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from alexnet_dali.pipeline import CentreCrop, DataLoader
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import prep_imagenet, subset
from tests.images import write_class_folders

STORES = [(), ("--resize", 32), ("--resize", 32, "--shards", "--quality", 80)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_class_folders(folder / "train", {"n01": 4, "n02": 3, "n03": 3}, 1, (30, 60))
    write_class_folders(folder / "val", {"n01": 2, "n02": 1}, 2, (30, 60))
    write_class_folders(folder / "test", {"n02": 2, "n03": 3}, 3, (30, 60))
    return folder


def prep(images, out, *options, val=("--val", "val")):
    words = ["--train", images / "train", "--out", out, *options]
    words += [images / word if word == "val" else word for word in val]
    prep_imagenet.main(list(map(str, words)))
    return Dataset.open(out)


def first_pixels(split, folder):
    """A batch of all images, by the loader."""
    count = len(getattr(Dataset.open(folder), split))
    pixels, labels = next(
        iter(DataLoader(folder, split, global_batch_size=count, crops=CentreCrop(24, 32)))
    )
    return pixels.numpy(), labels.tolist()


@pytest.mark.parametrize("store", STORES)
def test_they_are_prepared_like_validation_images(images, tmp_path, store):
    """Another folder, with the same images for validation, gives the same pixels and labels."""
    dataset = prep(images, tmp_path / "with", *store, "--test", images / "test")
    apart = prep(images, tmp_path / "apart", *store, val=("--val", images / "test"))
    assert dataset.test.labels.tolist() == [1, 1, 2, 2, 2] == apart.val.labels.tolist()
    for one, other in zip(
        first_pixels("test", tmp_path / "with"),
        first_pixels("val", tmp_path / "apart"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    about = yaml.safe_load((tmp_path / "with/dataset.yaml").read_text())
    counts = [about[f"{split}_images"] for split in ("train", "val", "test")]
    assert counts == [10, 3, 5]
    assert about["store"] == (
        {"resize": 32, "quality": 80 if "--shards" in store else 90} if store else None
    )
    assert "`test.txt`" in (tmp_path / "with/README.md").read_text()
    if "--shards" in store:
        splits = json.loads((tmp_path / "with/shards/_info.json").read_text())["splits"]
        assert splits["test"]["num_samples"] == 5


def test_training_and_validation_read_none_of_them(images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    dataset = prep(tmp_path / "images", tmp_path / "with", "--test", tmp_path / "images/test")
    without = prep(tmp_path / "images", tmp_path / "without")
    shutil.rmtree(tmp_path / "images/test")
    for split in ("train", "val"):
        lists = getattr(dataset, split), getattr(without, split)
        assert lists[0].text.tobytes() == lists[1].text.tobytes()
        assert len(first_pixels(split, tmp_path / "with")[1]) == len(lists[0])
    np.testing.assert_array_equal(dataset.stats.mean_image, without.stats.mean_image)
    with pytest.raises(DatasetError, match="is not there"):
        DataLoader(tmp_path / "with", "test", global_batch_size=5)


def test_a_folder_without_them_is_as_before(images, tmp_path):
    """Its fingerprint is that of runs that were made before; it may hold any test.txt."""
    dataset = prep(images, tmp_path / "out")
    names = ("train.txt", "val.txt", "sizes.npz", "classes.txt", "stats.npz")
    content = b"".join((tmp_path / "out" / name).read_bytes() for name in names)
    assert dataset.fingerprint == hashlib.sha256(content).hexdigest()
    assert not (tmp_path / "out/test.txt").exists() and dataset.test is None
    with np.load(tmp_path / "out/sizes.npz") as arrays:
        assert not [name for name in arrays if name.startswith("test")]
    (tmp_path / "out/test.txt").write_text("notes")
    assert Dataset.open(tmp_path / "out").test is None
    with pytest.raises(DatasetError, match=r"out has no test images; .*--test DIR"):
        DataLoader(tmp_path / "out", "test", global_batch_size=1)


def test_a_list_that_is_lost_or_changed_is_an_error(images, tmp_path):
    prep(images, tmp_path / "out", "--test", images / "test")
    path = tmp_path / "out/test.txt"
    lines = path.read_text()
    path.write_text(lines.replace(" 1\n", " 2\n"))
    with pytest.raises(DatasetError, match="changed or half-copied"):
        Dataset.open(tmp_path / "out")
    path.unlink()
    with pytest.raises(DatasetError, match=r"test\.txt missing"):
        Dataset.open(tmp_path / "out")


def test_their_classes_follow_the_rules_of_validation(images, tmp_path):
    write_class_folders(tmp_path / "test", {"n01": 1, "n04": 1})
    with pytest.raises(DatasetError, match="n04 are not among the 3 training classes"):
        prep(images, tmp_path / "out", "--test", tmp_path / "test")
    with pytest.raises(DatasetError, match="--test-labels goes with --test"):
        prep(images, tmp_path / "out", "--test-labels", "labels.txt")


def test_they_go_with_images_that_are_held_out(images, tmp_path):
    held = ("--hold-out", "0.3")
    dataset = prep(images, tmp_path / "out", "--test", images / "test", val=held)
    without = prep(images, tmp_path / "without", val=held)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (7, 3, 5)
    assert dataset.val.text.tobytes() == without.val.text.tobytes()


def test_numbers_are_targets_of_test_images_too(images, tmp_path):
    for split, count in (("train", 10), ("val", 3), ("test", 5)):
        names = sorted(path.relative_to(images / split) for path in (images / split).rglob("*.jpg"))
        rows = [f"{name},{place / 2}" for place, name in enumerate(names)]
        assert len(rows) == count
        (tmp_path / f"{split}.csv").write_text("\n".join(["file,size", *rows]) + "\n")
    words = [f"--{split}-labels={tmp_path / split}.csv" for split in ("train", "val", "test")]
    words += ["--targets", "numbers", "--train", images / "train", "--val", images / "val"]
    words += ["--test", images / "test", "--out", tmp_path / "out"]
    prep_imagenet.main(list(map(str, words)))
    dataset = Dataset.open(tmp_path / "out", ["numbers"])
    assert dataset.test.targets[:, 0].tolist() == [0, 0.5, 1, 1.5, 2]


def devkit(folder, numbers):
    """A development kit of 2010 with lists of numbers, and an order of classes of its own."""
    data = folder / "devkit-1.0/data"
    data.mkdir(parents=True)
    fields = [("ILSVRC2010_ID", object), ("WNID", object)]
    rows = np.array([(1, "n03"), (2, "n01"), (3, "n02")], fields)
    savemat(data / "meta.mat", {"synsets": rows.reshape(-1, 1)})
    for name, lines in numbers.items():
        text = "".join(f"{number}\n" for number in lines)
        (data / f"ILSVRC2010_{name}_ground_truth.txt").write_text(text)
    return folder / "devkit-1.0"


def flat(images, folder, split, count):
    """A flat folder of images, with names as those of 2010."""
    folder.mkdir()
    for place in range(1, count + 1):
        name = f"ILSVRC2010_{split}_{place:08d}.JPEG"
        shutil.copy(images / "train/n01/000.jpg", folder / name)


def test_the_kit_of_2010_labels_them_with_the_list_that_comes_apart(images, tmp_path):
    kit = devkit(tmp_path, {"validation": [2, 3, 1], "test": [3, 1, 1, 2]})
    flat(images, tmp_path / "val", "val", 3)
    flat(images, tmp_path / "test", "test", 4)
    labels = ("--val-labels", kit, "--test", tmp_path / "test", "--test-labels", kit)
    dataset = prep(images, tmp_path / "out", *labels, val=("--val", tmp_path / "val"))
    assert dataset.val.labels.tolist() == [0, 1, 2]
    assert dataset.test.labels.tolist() == [1, 2, 2, 0]
    alone = tmp_path / "devkit-1.0/data/ILSVRC2010_test_ground_truth.txt"
    with pytest.raises(DatasetError, match="whole development kit: give its folder, with this"):
        prep(images, tmp_path / "o", "--test", tmp_path / "test", "--test-labels", alone)


def test_validation_images_alone_are_enough_to_evaluate_originals(images, tmp_path):
    """As docs/evaluate.md does it: the kit gives classes and labels to both lists."""
    kit = devkit(tmp_path, {"validation": [2, 3, 1, 1]})
    flat(images, tmp_path / "val", "val", 4)
    words = ["--train-labels", kit, "--val-labels", kit, "--val", tmp_path / "val"]
    words += ["--train", tmp_path / "val", "--out", tmp_path / "out"]
    prep_imagenet.main(list(map(str, words)))
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.classes == ["n01", "n02", "n03"] and dataset.store is None
    assert dataset.val.labels.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("store", STORES)
def test_a_subset_has_those_of_its_classes(images, tmp_path, store):
    whole = prep(images, tmp_path / "whole", *store, "--test", images / "test")
    (tmp_path / "classes.txt").write_text("n03\nn01\n")
    (tmp_path / "others.txt").write_text("n01\n")
    options = ["--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "few")]
    subset.main([str(whole.folder), *options])
    few = Dataset.open(tmp_path / "few")
    assert few.test.labels.tolist() == [0, 0, 0] and few.store == whole.store
    np.testing.assert_array_equal(few.test.content(1), whole.test.content(3))
    options = ["--classes", str(tmp_path / "others.txt"), "--out", str(tmp_path / "none")]
    subset.main([str(whole.folder), *options])
    assert Dataset.open(tmp_path / "none").test is None


def test_a_folder_says_what_its_images_are(images, tmp_path):
    """Folders made before dataset.yaml said so show it by their roots, and subsets may not."""
    prep(images, tmp_path / "originals")
    prep(images, tmp_path / "copies", "--resize", 32, "--quality", 75)

    def said(name):
        text = Dataset.open(tmp_path / name).about_images("val")
        return text.removeprefix("validation images of ")

    assert said("originals") == f"{tmp_path / 'originals'}: originals"
    assert said("copies") == f"{tmp_path / 'copies'}: copies of shorter side 32, JPEG quality 75"
    for name in ("originals", "copies"):
        path = tmp_path / name / "dataset.yaml"
        about = yaml.safe_load(path.read_text())
        del about["store"]
        path.write_text(yaml.safe_dump(about))
    assert said("originals").endswith(": originals")
    assert said("copies").endswith(": copies of shorter side 32, JPEG quality unknown")
    path.write_text(yaml.safe_dump(about | {"subset_of": {"folder": "x"}}))
    assert said("copies").endswith(": originals or copies, dataset.yaml does not say")
    path.write_text(yaml.safe_dump(about | {"store": "yes"}))
    with pytest.raises(DatasetError, match=r"dataset\.yaml: expected store: null, or resize"):
        said("copies")
