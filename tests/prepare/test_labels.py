"""Names and labels as people write them: taken, or refused with what to do, before decoding."""

import codecs
import os

import numpy as np
import pytest
from scipy.io import savemat

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.class_names import find_names, read_names
from alexnet_dali.pipeline.prepare.labels.label_file import read_labels
from alexnet_dali.pipeline.prepare.sources import training_files, validation_files
from alexnet_dali.tools import prep_imagenet
from tests.images import write_class_folders

NAMES = [f"V{number}.JPEG" for number in range(6)]
CLASSES = ["n01", "n02", "n03"]
RIGHT = [0, 0, 1, 1, 2, 2]


def write(path, rows, separator=" ", heading="", encoding="utf-8"):
    lines = [separator.join(str(field) for field in row) for row in rows]
    path.write_text("\n".join([heading] * bool(heading) + lines) + "\n", encoding=encoding)
    return path


ROWS = [(name, CLASSES[label]) for name, label in zip(NAMES, RIGHT)]
FORMS = {
    "two columns": {"rows": ROWS},
    "CSV with a heading": {"rows": ROWS, "separator": ",", "heading": "file,label"},
    "without extensions": {"rows": [(name[:-5], label) for name, label in ROWS]},
    "with a folder": {"rows": [(f"val/{name}", label) for name, label in ROWS]},
    "with a dot and a folder": {"rows": [(f"./val/{name}", label) for name, label in ROWS]},
    "of Windows": {"rows": [(f"val\\{name}", label) for name, label in ROWS], "separator": "\t"},
    "UTF-16": {"rows": ROWS, "encoding": "utf-16"},
    "UTF-8 with a mark": {"rows": ROWS, "encoding": "utf-8-sig"},
    "label first": {"rows": [row[::-1] for row in ROWS], "separator": ","},
    "with row numbers": {
        "rows": [(number, *row) for number, row in enumerate(ROWS)],
        "separator": ",",
        "heading": ",filename,label",
    },
    "semicolons": {"rows": ROWS, "separator": ";", "heading": "filename;label"},
    "quoted": {"rows": [(f'"{name}"', f'"{label}"') for name, label in ROWS]},
    "numbers": {"rows": [(name, label) for name, label in zip(NAMES, RIGHT)]},
    "boxes behind": {"rows": [(*row, 0, 0, 62, 58) for row in ROWS], "separator": "\t"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_label_files_of_every_form_are_read(form, tmp_path):
    path = write(tmp_path / "labels", **form)
    assert read_labels(path, tmp_path, NAMES, CLASSES).indices == RIGHT


def test_names_match_whichever_way_their_accents_are_written(tmp_path):
    """NFC writes é as one character, NFD (macOS) as two."""
    path = write(tmp_path / "labels", [("e\u0301te\u0301.jpg", "n02"), ("b.jpg", "n01")])
    assert read_labels(path, tmp_path, ["\u00e9t\u00e9.jpg", "b.jpg"], CLASSES).indices == [1, 0]


def beside(column):
    """Each name, another column's value, and the class."""
    return [(name, column(index), label) for index, (name, label) in enumerate(ROWS)]


NUMBERS = [(label, index % 2, NAMES[index]) for index, label in enumerate(RIGHT)]
HEADED = {
    "label after another column": ("name,fold,label", beside(lambda index: index % 3)),
    "numbers under label": ("label,score,name", NUMBERS),
    "class names, unknown heading": ("file,width,kind", beside(lambda index: 90)),
}


@pytest.mark.parametrize("heading, rows", HEADED.values(), ids=HEADED)
def test_the_label_is_the_column_that_is_called_so_or_holds_classes(heading, rows, tmp_path):
    path = write(tmp_path / "labels", rows, ",", heading)
    assert read_labels(path, tmp_path, NAMES, CLASSES).indices == RIGHT


def test_a_list_with_several_columns_of_numbers_is_refused_unless_one_is_called_label(tmp_path):
    rows = [(name, index % 3, label) for index, (name, label) in enumerate(zip(NAMES, RIGHT))]
    path = write(tmp_path / "labels", rows, ",", "file,fold,kind")
    with pytest.raises(DatasetError, match="which of them is the label"):
        read_labels(path, tmp_path, NAMES, CLASSES)


WRONG = {
    "no name matches": ([("x.jpg", "n01")], r"first line is 'x\.jpg n01'"),
    "some are missing": (ROWS[:3], r"no label for 3 of 6 files .* V3\.JPEG, V4\.JPEG, V5\.JPEG"),
    "numbers from 1": (
        [(name, label + 1) for name, label in zip(NAMES, RIGHT)],
        "labelled '3'.* a number from 0 to 2 on every line; these begin at 1: subtract 1",
    ),
    "twice": ([*ROWS, ("V0.JPEG", "n03")], r"V0\.JPEG is labelled twice, as n01 and n03"),
}


@pytest.mark.parametrize("rows, message", WRONG.values(), ids=WRONG)
def test_label_files_that_do_not_match_say_what_differs(rows, message, tmp_path):
    path = write(tmp_path / "labels", rows)
    with pytest.raises(DatasetError, match=message):
        read_labels(path, tmp_path, NAMES, CLASSES)


def test_a_label_file_of_no_text_is_refused(tmp_path):
    (tmp_path / "labels").write_bytes("V0.JPEG n01".encode("utf-16-le"))
    with pytest.raises(DatasetError, match="save it as UTF-8"):
        read_labels(tmp_path / "labels", tmp_path, NAMES, CLASSES)
    (tmp_path / "labels").write_bytes(codecs.BOM_UTF16_LE + b"abc")
    with pytest.raises(DatasetError, match="save it as UTF-8"):
        read_labels(tmp_path / "labels", tmp_path, NAMES, CLASSES)


def test_a_name_that_could_be_two_files_needs_its_folder(tmp_path):
    names = ["a/1.jpg", "b/1.jpg"]
    path = write(tmp_path / "labels", [("a/1.jpg", "n01"), ("b/1.jpg", "n02")])
    assert read_labels(path, tmp_path, names, CLASSES).indices == [0, 1]
    path = write(tmp_path / "labels", [("1.jpg", "n01"), ("b/1.jpg", "n02")])
    with pytest.raises(DatasetError, match=r"1\.jpg could be several files"):
        read_labels(path, tmp_path, names, CLASSES)


def test_the_kit_of_2010_gives_labels_and_names(tmp_path):
    data = tmp_path / "devkit-1.0/data"
    data.mkdir(parents=True)
    fields = [("ILSVRC2010_ID", object), ("WNID", object), ("words", object)]
    rows = [(1, "n03", "shark"), (2, "n01", "tench"), (3, "n02", "goldfish")]
    savemat(data / "meta.mat", {"synsets": np.array(rows, fields).reshape(-1, 1)})
    (data / "ILSVRC2010_validation_ground_truth.txt").write_text("2\n2\n3\n3\n1\n1\n")
    names = [f"ILSVRC2010_val_{number:08d}.JPEG" for number in range(1, 7)]
    kit = tmp_path / "devkit-1.0"
    assert read_labels(kit, tmp_path, names, CLASSES).indices == RIGHT
    assert find_names(tmp_path, kit, CLASSES) == ["tench", "goldfish", "shark"]


@pytest.fixture
def folders(tmp_path):
    write_class_folders(tmp_path / "train", dict.fromkeys(CLASSES, 2))
    return tmp_path / "train"


def test_an_empty_class_folder_is_an_error_before_any_file_is_decoded(folders):
    (folders / "n02b").mkdir()
    with pytest.raises(DatasetError, match="1 class folders hold no file: n02b"):
        training_files(folders)


def test_a_link_that_leads_nowhere_is_an_error_and_no_lost_class(folders):
    (folders / "n04").symlink_to("moved")
    with pytest.raises(DatasetError, match="n04 is a link to moved, which is not there"):
        training_files(folders)


def test_links_to_folders_are_followed(folders, tmp_path):
    (folders / "n04").symlink_to(folders / "n01")
    (folders / "n01/all").symlink_to(folders)  # a circle
    found = training_files(folders)
    assert found.classes == [*CLASSES, "n04"]
    assert np.bincount(found.source.labels).tolist() == [2, 2, 2, 2]


def test_what_systems_leave_behind_is_skipped_and_said(folders):
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (folders / name).mkdir()
        (folders / name / "x.jpg").touch()
    for name in ("n01/.DS_Store", "n02/Thumbs.db", "n03/._000.jpg", "README.txt"):
        (folders / name).touch()
    found = training_files(folders)
    assert found.classes == CLASSES and len(found.source.names) == 6
    assert "6 in all" in found.remarks[0] and "README.txt" in found.remarks[1]


@pytest.mark.parametrize("names", [("\u00e9", "e\u0301"), ("cat", "cat "), ("a b", "a\u00a0b")])
def test_class_folders_that_look_the_same_are_refused(folders, names):
    for name in names:
        (folders / name).mkdir()
        (folders / name / "x.jpg").touch()
    with pytest.raises(DatasetError, match=r"look the same.* in blanks or .*NFC and NFD"):
        training_files(folders)


def test_validation_folders_match_accents_and_say_where_case_differs(folders, tmp_path):
    (folders / "\u00e9").mkdir()
    (folders / "\u00e9/x.jpg").touch()
    classes = training_files(folders).classes
    write_class_folders(tmp_path / "val", {"e\u0301": 1, "n01": 1})
    source, _ = validation_files(tmp_path / "val", None, classes)
    assert source.labels.tolist() == [0, 3]
    (tmp_path / "val/n01").rename(tmp_path / "val/N01")
    with pytest.raises(DatasetError, match="N01 and n01 differ in case only"):
        validation_files(tmp_path / "val", None, classes)


def test_class_folders_that_differ_in_case_are_two_classes(folders):
    (folders / "N01").mkdir()
    (folders / "N01/x.jpg").touch()
    assert training_files(folders).classes == ["N01", *CLASSES]


def test_a_label_file_among_the_images_is_no_image(folders, tmp_path):
    """So Tiny ImageNet's folder val is taken as it is, with its images one folder deeper."""
    (tmp_path / "val/images").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "val/images" / name).touch()
    path = write(tmp_path / "val/annotations.txt", ROWS, "\t")
    source, _ = validation_files(tmp_path / "val", path, CLASSES)
    assert source.labels.tolist() == RIGHT and source.names[0] == "images/V0.JPEG"


def test_names_of_classes_come_from_files_in_either_form(folders, tmp_path):
    words = ["tench, Tinca tinca", "goldfish", "great white shark"]
    keyed = write(tmp_path / "keyed", [*zip(CLASSES, words), ("n99", "other")], "\t")
    assert read_names(keyed, CLASSES) == words
    plain = write(tmp_path / "plain", [(word,) for word in words])
    assert read_names(plain, CLASSES) == words
    commas = write(tmp_path / "commas", zip(CLASSES[::-1], words[::-1]), ",")
    assert read_names(commas, CLASSES) == words
    for wrong in ([("tench",)], [("n01", "tench"), ("n02", "goldfish"), ("n04", "shark")]):
        with pytest.raises(DatasetError, match="expected a line 'class name' for each of the 3"):
            read_names(write(tmp_path / "wrong", wrong), CLASSES)
    assert find_names(folders, None, CLASSES) is None
    write(tmp_path / "words.txt", zip(CLASSES, words), "\t")  # as Tiny ImageNet has it
    assert find_names(folders, None, CLASSES) == words


def test_names_of_any_bytes_go_through_and_are_kept(tmp_path):
    """Dollars mean formulas to Matplotlib, and a folder of Windows may hold bytes of Latin-1."""
    latin = os.fsdecode(b"caf\xe9")
    write_class_folders(tmp_path / "train", {"a$^$b": 2, latin: 2})
    arguments = ["--train", tmp_path / "train", "--hold-out", 0.5, "--out", tmp_path / "out"]
    prep_imagenet.main([str(argument) for argument in arguments])
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.classes == dataset.names == ["a$^$b", latin]
