"""Labels that parquet files and WebDataset shards bring: of several, none is taken unasked."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.label_file import read_labels
from alexnet_dali.pipeline.prepare.sources import training_files, validation_files

NUMBERS = [0, 1, 2, 2, 1, 0]
TEXTS = ["tench", "goldfish", "shark", "shark", "goldfish", "tench"]
COARSE = [0, 0, 1, 1, 0, 0]
IMAGES = [{"bytes": b"\xff\xd8", "path": f"{i}.jpg"} for i in range(6)]
CLASS_LABEL = {"_type": "ClassLabel", "names": ["tench", "goldfish", "shark"]}


def found(path, columns, features=None):
    """What is read of a parquet file of these columns, with notes of the `datasets` library."""
    table = pyarrow.table(columns)
    if features:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    parquet.write_table(table, path / "train-0.parquet", row_group_size=4)
    return training_files(path / "train-0.parquet")


ONE_LABEL = {
    "label": ({"label": NUMBERS}, "label", NUMBERS),
    "label and names alike": ({"class_name": TEXTS, "label": NUMBERS}, "label", NUMBERS),
    "a label and a guess": ({"label": NUMBERS, "prediction": NUMBERS[::-1]}, "label", NUMBERS),
    "a label and its score": ({"label": NUMBERS, "label_score": [0.5] * 6}, "label", NUMBERS),
    "names only": ({"category": TEXTS}, "category", [2, 0, 1, 1, 0, 2]),
    "a mask": ({"mask": [b"x"] * 6, "label": NUMBERS}, "label", NUMBERS),
}


@pytest.mark.parametrize("columns, title, labels", ONE_LABEL.values(), ids=ONE_LABEL)
def test_one_column_of_labels_is_taken_and_said(columns, title, labels, tmp_path):
    source, _, _, remarks = found(tmp_path, {"image": IMAGES, **columns})
    by_file = dict(zip((name[-5] for name in source.names), source.labels.tolist(), strict=True))
    assert [by_file[str(i)] for i in range(6)] == labels
    assert remarks[0].startswith(f'labels: column "{title}" of train-0.parquet')
    assert "0.jpg is " in remarks[0]


def test_names_of_the_schema_are_in_the_line(tmp_path):
    columns = {"image": IMAGES, "kind": NUMBERS}
    assert found(tmp_path, columns, {"kind": CLASS_LABEL}).remarks == [
        'labels: column "kind" of train-0.parquet, numbers 0 to 2; '
        "train-0/0000-000000/0.jpg is 0 (tench)"
    ]


TWO_LABELS = {
    "fine and coarse, as CIFAR-100 has": ({"fine_label": NUMBERS, "coarse_label": COARSE}, {}),
    "two features": (
        {"kind": NUMBERS, "group": COARSE},
        {"kind": CLASS_LABEL, "group": {"_type": "ClassLabel", "names": ["a", "b"]}},
    ),
    "one before and one after correction": (
        {"label": NUMBERS, "true_label": [*NUMBERS[:5], 1]},
        {},
    ),
    "a feature and another number": (
        {"kind": NUMBERS, "label": [*NUMBERS[::-1][:5], 1]},
        {"kind": CLASS_LABEL},
    ),
    "numbers and names that differ": ({"label": NUMBERS, "class_name": [*TEXTS[:5], "shark"]}, {}),
}


@pytest.mark.parametrize("columns, features", TWO_LABELS.values(), ids=TWO_LABELS)
def test_two_columns_of_labels_that_differ_are_refused_with_an_example(columns, features, tmp_path):
    with pytest.raises(DatasetError, match=r"could both be the label, and differ: .*\.jpg is ."):
        found(tmp_path, {"image": IMAGES, **columns}, features)


@pytest.mark.parametrize(
    "odd, message",
    [
        ("tench ", "the labels 'tench' and 'tench ' look the same"),
        ("", r"the label of .*1\.jpg is empty"),
        ("  ", r"the label of .*1\.jpg is empty"),
    ],
)
def test_texts_that_blanks_alone_tell_apart_are_no_labels(odd, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        found(tmp_path, {"image": IMAGES, "label": [TEXTS[0], odd, *TEXTS[2:]]})
    texts = ["caf\u00e9", "cafe\u0301", *TEXTS[2:]]
    with pytest.raises(DatasetError, match="look the same"):
        training_files(shard(tmp_path / "s.tar", lambda i: {"cls": texts[i].encode()}))


def test_two_columns_of_images_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="front, back all hold images"):
        found(tmp_path, {"front": [b"x"] * 6, "back": [b"y"] * 6, "label": NUMBERS})


def shard(path, labels):
    """A shard whose image i has the files `labels(i)` beside it, by suffix."""
    with tarfile.open(path, "w") as archive:
        for i in range(6):
            for suffix, data in {"jpg": b"\xff\xd8", **labels(i)}.items():
                entry = tarfile.TarInfo(f"{i:04d}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def cls(i):
    return str(NUMBERS[i]).encode()


@pytest.mark.parametrize(
    "labels, origin",
    [
        (lambda i: {"cls": cls(i)}, ".cls files of s.tar, numbers 0 to 2; 0000.jpg is 0"),
        (
            lambda i: {"json": json.dumps({"label": NUMBERS[i], "class_name": TEXTS[i]}).encode()},
            '"label" in .json files of s.tar, numbers 0 to 2; 0000.jpg is 0',
        ),
        (
            lambda i: {"cls": cls(i), "json": json.dumps({"label": TEXTS[i], "a": 1}).encode()},
            ".cls files of s.tar, numbers 0 to 2; 0000.jpg is 0",
        ),
        (
            lambda i: {"json": json.dumps({"class_name": TEXTS[i]}).encode()},
            '"class_name" in .json files of s.tar; 0000.jpg is tench',
        ),
    ],
)
def test_labels_of_shards_are_said(labels, origin, tmp_path):
    read = training_files(shard(tmp_path / "s.tar", labels))
    assert read.remarks == [f"labels: {origin}"]
    expected = NUMBERS if read.classes[0] == "0" else [2, 0, 1, 1, 0, 2]
    order = [int(name[:4]) for name in read.source.names]
    assert read.source.labels.tolist() == [expected[i] for i in order]


def test_shards_with_two_labels_that_differ_are_refused(tmp_path):
    def labels(i):
        return {"cls": cls(i), "json": json.dumps({"label": COARSE[i]}).encode()}

    path = shard(tmp_path / "s.tar", labels)
    with pytest.raises(DatasetError, match=r"\.cls files and \"label\" in .* 0001\.jpg is 1 and 0"):
        training_files(path)


def test_the_kits_labels_are_said(tmp_path):
    fields = [("ILSVRC2012_ID", object), ("WNID", object)]
    rows = np.array([(1, "n03"), (2, "n01"), (3, "n02")], fields).reshape(-1, 1)
    savemat(tmp_path / "meta.mat", {"synsets": rows})
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n1\n2\n")
    names = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)]
    found = read_labels(tmp_path, tmp_path / "v", names, ["n01", "n02", "n03"])
    assert found.indices == [0, 1, 2]
    assert found.remarks[0] == (
        f'labels: column "WNID" of {tmp_path.name}; ILSVRC2012_val_00000001.JPEG is n01'
    )
    assert "skipped 1 lines" in found.remarks[1] and "00000004" in found.remarks[1]


def test_files_of_no_image_and_no_label_are_told_apart_by_their_content(tmp_path):
    """A folder of images without suffixes, a licence, and an image that was forgotten."""
    val = tmp_path / "val"
    val.mkdir()
    for name in ("a", "b", "forgotten"):
        Image.new("RGB", (9, 9)).save(val / name, "PNG")
    (val / "LICENSE").write_text("free")
    (val / "labels.csv").write_text("image,label\na,dog\nb,cat\n")
    with pytest.raises(DatasetError, match=r"no label for 1 of 4 files in .*: forgotten"):
        validation_files(val, val / "labels.csv", ["cat", "dog"])
    (val / "forgotten").unlink()
    source, remarks = validation_files(val, val / "labels.csv", ["cat", "dog"])
    assert list(source.names) == ["a", "b"] and source.labels.tolist() == [1, 0]
    assert remarks[0] == 'labels: column "label" of labels.csv; a is dog'
    assert remarks[1].endswith("no images and have no label: LICENSE")
