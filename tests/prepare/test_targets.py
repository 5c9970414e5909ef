"""Targets other than class folders: what label files say comes out of the loader, by image."""

import csv
import random

import numpy as np
import pytest
import torch
import yaml
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from alexnet_dali.pipeline import CentreCrop, DataLoader
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import prep_imagenet
from tests.images import smooth_image

COUNTS = {"train": 12, "val": 5}
CLASSES = ["bird", "cat", "dog"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        (folder / split).mkdir()
        for number in range(count):
            smooth_image(rng, 40, 50).save(folder / split / f"{split}{number}.jpg")
    return folder


def names(split):
    return [f"{split}{number}.jpg" for number in range(COUNTS[split])]


def write(path, heading, rows, delimiter=","):
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([heading, *rows])


def prep(images, tmp_path, kind, *options, labels=True):
    arguments = ["--train", images / "train", "--val", images / "val", "--targets", kind]
    if labels:
        arguments += ["--train-labels", tmp_path / "train.csv"]
        arguments += ["--val-labels", tmp_path / "val.csv"]
    arguments += ["--out", tmp_path / "out", *options]
    prep_imagenet.main([str(argument) for argument in arguments])
    return tmp_path / "out"


def by_name(folder, split):
    """Each file's name and its targets, as batches of the loader give them."""
    loader = DataLoader(
        folder, split, global_batch_size=4, crops=CentreCrop(32, 40), with_index=True
    )
    found = {}
    for batch, targets, indices in loader:
        assert len(batch) == len(targets) == len(indices)
        for row, index in zip(targets, indices, strict=True):
            found[loader.path(index).split("/")[-1]] = row
    return found


def tags(split):
    """Some of three classes for each file; nothing for the second."""
    rng = random.Random(split)
    chosen = {name: [c for c in CLASSES if rng.random() < 0.5] for name in names(split)}
    return chosen | {names(split)[0]: CLASSES, names(split)[1]: []}


@pytest.mark.parametrize("mark", ["|", ";", ",", " ", None])
@pytest.mark.parametrize("store", [(), ("--resize", "32", "--shards")])
def test_several_classes_of_an_image(images, tmp_path, mark, store, capsys):
    for split in COUNTS:
        rows = [
            [name, *[int(c in own) for c in CLASSES]] if mark is None else [name, mark.join(own)]
            for name, own in tags(split).items()
        ]
        random.Random(1).shuffle(rows)
        heading = ["image", *CLASSES] if mark is None else ["image", "tags"]
        write(tmp_path / f"{split}.csv", heading, [*rows, [f"elsewhere{mark}.jpg", *rows[0][1:]]])
    out = prep(images, tmp_path, "multilabel", *store)
    for split in COUNTS:
        expected = tags(split)
        for name, row in by_name(out, split).items():
            assert row.dtype == torch.bool
            assert [CLASSES[c] for c in np.flatnonzero(row)] == expected[name]
    printed = capsys.readouterr().out
    assert "targets: column " in printed and "train0.jpg is bird, cat, dog" in printed
    assert "skipped 1 lines about files that are not in" in printed
    assert yaml.safe_load((out / "dataset.yaml").read_text())["targets"] == "multilabel"
    assert {line.split()[-1] for line in (out / "train.txt").read_text().splitlines()} == {"-1"}


def test_numbers_follow_the_training_files_columns(images, tmp_path, capsys):
    numbers = {
        name: (rng.uniform(-1e3, 1e3), float(rng.randint(0, 9)))
        for split in COUNTS
        for rng in [random.Random(split)]
        for name in names(split)
    }
    rows = [[i, name, "note", *numbers[name]] for i, name in enumerate(names("train"))]
    write(tmp_path / "train.csv", ["", "file", "remark", "angle", "count"], rows)
    rows = [[numbers[name][1], numbers[name][0], name] for name in names("val")]
    write(tmp_path / "val.csv", ["count", "angle", "file"], rows, delimiter="\t")
    out = prep(images, tmp_path, "numbers")
    found = by_name(out, "train") | by_name(out, "val")
    for name, expected in numbers.items():
        np.testing.assert_array_equal(found[name].numpy(), np.array(expected, np.float32))
    assert (out / "classes.txt").read_text() == "angle\ncount\n"
    assert "path, space, -1 (`--targets numbers`)" in (out / "README.md").read_text()
    assert 'not read: column "", column "remark"' in capsys.readouterr().out


def test_images_without_targets(images, tmp_path):
    out = prep(images, tmp_path, "none", labels=False)
    assert {name: row.item() for name, row in by_name(out, "val").items()} == dict.fromkeys(
        names("val"), -1
    )
    assert (out / "classes.txt").read_text() == ""
    assert "`fn.readers.file`" in (out / "README.md").read_text()
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        files = fn.readers.file(file_root=str(images / "train"), file_list=str(out / "train.txt"))
        pipeline.set_outputs(*files)
    with pytest.raises(RuntimeError, match="Incorrect format of the list file"):
        pipeline.build()


@pytest.mark.parametrize("classes", [["ant", "bee"], ["7", "12"]])
def test_classes_of_a_flat_training_folder(images, tmp_path, classes):
    for split in COUNTS:
        rows = [[name, classes[number % 2]] for number, name in enumerate(names(split))]
        write(tmp_path / f"{split}.csv", ["filename", "label"], rows)
    out = prep(images, tmp_path, "classes")
    assert Dataset.open(out).classes == classes
    for split in COUNTS:
        for name, label in by_name(out, split).items():
            assert label == int(name.removeprefix(split).removesuffix(".jpg")) % 2


def test_rows_that_do_not_count_say_so(images, tmp_path):
    rows = {split: [[name, 1.5, 2] for name in names(split)] for split in COUNTS}
    for split in COUNTS:
        write(tmp_path / f"{split}.csv", ["file", "x", "y"], rows[split])
    out = prep(images, tmp_path, "numbers")
    loader = DataLoader(
        out, "val", global_batch_size=4, crops=CentreCrop(32, 40), pad=True, with_index=True
    )
    *_, (_, targets, indices) = loader
    assert indices.tolist() == [4, -1, -1, -1]
    assert targets[0].tolist() == [1.5, 2.0] and targets[1:].isnan().all()


def test_what_needs_classes_refuses_others(images, tmp_path):
    out = prep(images, tmp_path, "none", labels=False)
    with pytest.raises(DatasetError, match="prepared with --targets none, and this needs classes"):
        Dataset.open(out)


@pytest.mark.parametrize(
    ("kind", "train", "val", "message"),
    [
        ("numbers", "{},cat", "{},1", "expected a column of numbers"),
        ("numbers", "{},1,2", "{},1", "expected those of the training images"),
        ("numbers", "{},nan", "{},1", "expected a column of numbers"),
        ("multilabel", "{},cat|dog", "{},cow", "cow are not among the 2 classes"),
        ("multilabel", "{},cat,red", "{},cat,red", "expected columns of 0 and 1 with class names"),
        ("classes", "{},cat,red", "{},cat,red", "expected one column of classes"),
    ],
)
def test_label_files_that_do_not_fit_say_what_was_found(
    images, tmp_path, kind, train, val, message
):
    for split, line in (("train", train), ("val", val)):
        lines = [line.format(name) + "\n" for name in names(split)]
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    with pytest.raises(DatasetError, match=message):
        prep(images, tmp_path, kind)
    assert not (tmp_path / "out").exists()


def test_an_image_without_a_line_is_an_error(images, tmp_path):
    for split in COUNTS:
        write(tmp_path / f"{split}.csv", ["file", "x"], [[name, 1] for name in names(split)[1:]])
    with pytest.raises(DatasetError, match=r"no label for 1 of 12 files .*: train0\.jpg"):
        prep(images, tmp_path, "numbers")


def test_a_number_that_is_missing_is_an_error(images, tmp_path):
    for split in COUNTS:
        rows = [[name, 1.5] for name in names(split)]
        write(tmp_path / f"{split}.csv", ["file", "x"], [*rows[:-1], [rows[-1][0], ""]])
    with pytest.raises(DatasetError, match=r"column \"x\" holds '' in the line 'train11\.jpg,'"):
        prep(images, tmp_path, "numbers")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--targets", "none"], "--targets none reads no labels"),
        (["--targets", "numbers", "--names", "x"], "--names are of classes"),
    ],
)
def test_options_that_do_not_go_together(images, tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        prep(images, tmp_path, *options[1:])


def test_targets_need_label_files(images, tmp_path):
    with pytest.raises(DatasetError, match="expected --train-labels and --val-labels"):
        prep(images, tmp_path, "multilabel", labels=False)
