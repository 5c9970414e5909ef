"""A prepared folder whose files are not what its writer left: `Dataset.open` and what it opens."""

import shutil

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dali.pipeline.dataset import Dataset, fingerprint
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.prepare.prepared_files import PreparedFiles
from alexnet_dali.pipeline.stats import PixelStats
from tests.fuzz.harness import altered, damaged, npz_files, slow, works_or_says

LISTS = ("train.txt", "val.txt", "classes.txt", "names.txt")
ABOUT = {
    "format": 2,
    "targets": "classes",
    "fingerprint": "0" * 64,
    "train_root": "/x",
    "val_root": "y",
    "classes": 3,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A sound folder, small and with an image of each kind: in files, and in an archive."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    names = [f"{'abc'[i // 2]}/two words {i}.jpg" for i in range(6)]
    spans = [(1, 10 * i, 10) for i in range(6)]
    train = ImageList.of("images", names, [0, 0, 1, 1, 2, 2], [(30 + i, 40) for i in range(6)])
    val = ImageList.of("shards", names, [0, 0, 1, 1, 2, 2], [(30, 40)] * 6, spans)
    vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mean_image = rng.uniform(0, 255, (256, 256, 3)).astype(np.float32)
    stats = PixelStats(
        mean_image, mean_image.mean((0, 1), np.float64), np.array([9.0, 4, 0]), vectors
    )
    classes = ["a", "b", "c"]
    PreparedFiles(train, val, classes, ["one", "two", "three"], stats, [], []).write(folder, {})
    return folder


@pytest.fixture(scope="module")
def folder(prepared, tmp_path_factory):
    """A copy of the prepared folder, to be damaged."""
    return shutil.copytree(prepared, tmp_path_factory.mktemp("fuzz") / "prepared")


def use(folder):
    """Open the folder, and look at all that it gives."""
    dataset = Dataset.open(folder)
    for images in (dataset.train, dataset.val):
        assert images.sizes.shape == (len(images), 2) and images.sizes.min() > 0
        assert images.labels.min() >= 0 and images.labels.max() < len(dataset.classes)
        for index in range(len(images)):
            images.path(index).encode(errors="surrogateescape")
            works_or_says(lambda index=index, images=images: images.content(index))
        images.take(np.arange(len(images))[::-1])
    assert dataset.stats.mean_at(224).shape == (224, 224, 3)
    assert np.isfinite(dataset.stats.lighting_directions()).all()
    assert all(isinstance(name, str) for name in dataset.classes + dataset.names)


def opened_with(folder, prepared, name, data, fits=True):
    """What opening ends with when one file is another; its fingerprint fits, unless it is told."""
    (folder / name).write_bytes(data)
    about = yaml.safe_load((prepared / "dataset.yaml").read_text())
    if fits and name != "dataset.yaml":
        about["fingerprint"] = fingerprint(folder)
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about))
    try:
        return works_or_says(lambda: use(folder), str(folder))
    finally:
        for changed in (name, "dataset.yaml"):
            shutil.copyfile(prepared / changed, folder / changed)


@slow
@given(data=st.data())
@pytest.mark.parametrize("name", LISTS)
def test_lists(name, data, folder, prepared):
    sound = (prepared / name).read_bytes()
    opened_with(folder, prepared, name, data.draw(damaged(sound)))


@given(data=st.data())
@pytest.mark.parametrize("name", ["sizes.npz", "stats.npz", "dataset.yaml"])
def test_damaged_files(name, data, folder, prepared):
    sound = (prepared / name).read_bytes()
    opened_with(folder, prepared, name, data.draw(damaged(sound)))


@given(data=st.data())
@pytest.mark.parametrize("name", ["sizes.npz", "stats.npz"])
def test_arrays_of_another_kind(name, data, folder, prepared):
    with np.load(prepared / name) as arrays:
        sound = dict(arrays)
    if name == "sizes.npz" and data.draw(st.booleans()):
        sound["train_spans"] = np.array([[9, 0, 10]] * len(sound["train"]))
    opened_with(folder, prepared, name, data.draw(npz_files(sound)))


@given(about=altered(ABOUT))
def test_another_dataset_yaml(about, folder, prepared):
    sound = yaml.safe_load((prepared / "dataset.yaml").read_text())
    if isinstance(about, dict) and about.get("fingerprint") == ABOUT["fingerprint"]:
        about["fingerprint"] = sound["fingerprint"]
    opened_with(folder, prepared, "dataset.yaml", yaml.dump(about).encode())


@given(data=st.data())
def test_statistics_alone(data, prepared, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "stats.npz"
    path.write_bytes(data.draw(damaged((prepared / "stats.npz").read_bytes())))
    works_or_says(lambda: PixelStats.load(path), str(path))
