"""Label files in every form that people have: each is read rightly, or refused; none wrongly.

The images are 0.jpg to 8.jpg. A file is right where it gives TRUTH.
"""

import re

import numpy as np
import pytest

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.labels.label_file import UNLABELLED, read_labels

CLASSES = ["cat", "dog", "fox"]
TRUTH = [2, 0, 1, 1, 0, 2, 2, 1, 0]
OWN = [1, 2, 0]
"""The data set's own number of each class."""
FILES = [f"{i}.jpg" for i in range(9)]
RIGHT = "right"


def lines(form, heading="", more="", classes=CLASSES, end="\n"):
    """A line for each image: its number i, its class k, or c by name, or o by OWN."""
    rows = [heading] * bool(heading)
    for i, k in enumerate(TRUTH):
        flags = ",".join(str(int(k == c)) for c in range(3))
        rows.append(form.format(i=i, k=k, c=classes[k], o=OWN[k], j=8 - i, flags=flags, one=k + 1))
    return end.join([*rows, *more.split("\n")] if more else rows) + end


FORMS = {
    # Lines of two
    "names": (lines("{i}.jpg {c}"), RIGHT),
    "numbers from 0": (lines("{i}.jpg {k}"), RIGHT),
    "numbers from 1": (lines("{i}.jpg {one}"), "begin at 1: subtract 1"),
    "more blanks": (lines("{i}.jpg   {c}  "), RIGHT),
    "blanks first": (lines("   {i}.jpg {c}"), RIGHT),
    "tabs": (lines("{i}.jpg\t{c}"), RIGHT),
    "tabs and blanks": (lines("{i}.jpg \t {c}"), RIGHT),
    "commas": (lines("{i}.jpg,{c}"), RIGHT),
    "commas and blanks": (lines("{i}.jpg , {c}"), RIGHT),
    "semicolons": (lines("{i}.jpg;{k}"), RIGHT),
    "bars": (lines("{i}.jpg|{c}"), RIGHT),
    "a table of Markdown": (lines("| {i}.jpg | {c} |", "| file | label |\n|---|---|"), RIGHT),
    "Windows": (lines("{i}.jpg,{c}", "file,label", end="\r\n"), RIGHT),
    "an old Macintosh": (lines("{i}.jpg,{c}", "file,label", end="\r"), RIGHT),
    "empty lines": (lines("{i}.jpg {c}\n"), RIGHT),
    "no end of line": (lines("{i}.jpg {c}").rstrip(), RIGHT),
    "a mark of UTF-8": ("\ufeff" + lines("{i}.jpg,{c}", "file,label"), RIGHT),
    "comments": ("# by hand\n" + lines("{i}.jpg {c}", more="# end"), RIGHT),
    "Excel's first line": ("sep=;\n" + lines("{i}.jpg;{c}", "file;label"), RIGHT),
    "commas at the end": (lines("{i}.jpg,{c},"), RIGHT),
    # Order
    "label first, names": (lines("{c} {i}.jpg"), RIGHT),
    "label first, numbers": (lines("{k},{i}.jpg", "label,filename"), RIGHT),
    "label first, no suffix": (lines("{c},{i}"), RIGHT),
    "label first, numbers, no heading": (lines("{k} {i}.jpg"), RIGHT),
    # Quotes
    "all in quotes": (lines('"{i}.jpg","{c}"', '"file","label"'), RIGHT),
    "quotes and blanks": (lines('"{i}.jpg" "{c}"'), RIGHT),
    "names in quotes": (lines('"{i}.jpg",{c}'), RIGHT),
    "single quotes": (lines("'{i}.jpg','{c}'"), RIGHT),
    "a quote that stays open": (lines("{i}.jpg,{c}").replace("3.jpg", '"3.jpg'), "no label for"),
    "a field of two lines": (lines('{i}.jpg,{c},"a\nb"', "file,label,note"), RIGHT),
    # What names are like
    "no suffixes": (lines("{i} {c}"), RIGHT),
    "some suffixes": (lines("{i}.jpg,{c}", "file,label").replace("2.jpg", "2"), RIGHT),
    "another suffix": (lines("{i}.png {c}"), RIGHT),
    "another case of the suffix": (lines("{i}.JPG {c}"), RIGHT),
    "a folder before": (lines("val/{i}.jpg {c}"), RIGHT),
    "./": (lines("./{i}.jpg {c}"), RIGHT),
    "a path of another machine": (lines("/home/me/data/v/{i}.jpg {c}"), RIGHT),
    "a path of Windows": (lines("C:\\my data\\v\\{i}.jpg,{c}"), RIGHT),
    "a path with blanks": (lines("my data/v/{i}.jpg {k}"), RIGHT),
    "names that are not there": (lines("x{i}.jpg {c}"), "expected 'name label'"),
    # Headings
    "a heading": (lines("{i}.jpg,{c}", "filename,label"), RIGHT),
    "a heading of Kaggle's": (lines("{i},{c}", "id,breed"), RIGHT),
    "a heading for numbers": (lines("{i}.jpg,{k}", "image,target"), RIGHT),
    "a heading that is no label's": (lines("{i}.jpg,{k}", "image,level"), "Call it label"),
    "a heading of pandas": (lines("{i}.jpg,{c}", "0,1"), RIGHT),
    "a heading that is a class": (lines("{i}.jpg,{k}", "file,dog"), "called like a class"),
    "class names as labels in other case": (
        lines("{i}.jpg,{c},{o}", "file,name,label", classes=["Cat", "DOG", "Fox"]),
        RIGHT,
    ),
    # Numbers
    "numbers as of pandas": (lines("{i}.jpg,{k}.0", "file,label"), RIGHT),
    "numbers with zeros": (lines("{i}.jpg,00{k}", "file,label"), RIGHT),
    "a number too large": (lines("{i}.jpg {k}").replace("7.jpg 1", "7.jpg 3"), "labelled '3'"),
    "a number below 0": (lines("{i}.jpg {k}").replace("7.jpg 1", "7.jpg -1"), "labelled '-1'"),
    "no number": (lines("{i}.jpg {k}").replace("7.jpg 1", "7.jpg x"), "labelled 'x'"),
    "halves": (lines("{i}.jpg {k}.5"), "labelled '2.5'"),
    # Other columns
    "an index": (lines("{i},{i}.jpg,{c}", ",filename,label"), RIGHT),
    "an index of shuffled rows": (lines("{j},{i}.jpg,{c}", ",filename,label"), RIGHT),
    "an index without a heading": (lines("{j},{i}.jpg,{c}"), RIGHT),
    "an index beside names without suffix": (lines("{j},{i},{c}", ",image_id,label"), RIGHT),
    "an index beside these, no heading": (lines("{j},{i},{c}"), "read in two ways"),
    "an index and numbers, no heading": (lines("{j},{i}.jpg,{k}"), "which of them is the label"),
    "own numbers beside names": (lines("{i}.jpg,{o},{c}", "filename,label,class_name"), RIGHT),
    "own numbers beside kinds": (lines("{i}.jpg,{o},{c}", "filename,label,kind"), RIGHT),
    "own numbers, no heading": (lines("{i}.jpg,{o},{c}"), RIGHT),
    "own numbers beside names with an error": (
        lines("{i}.jpg,{o},{c}", "filename,label,class_name").replace("7.jpg,2,dog", "7.jpg,2,dg"),
        "labelled 'dg'",
    ),
    "own numbers beside names that no folder has": (
        lines("{i}.jpg,{o},{c}s", "filename,label,class_name"),
        "labelled 'foxs' in column \"class_name\"; expected the name of a class folder",
    ),
    "places beside names that no folder has": (
        lines("{i}.jpg,{k},{c}s", "filename,class_index,class_name"),
        RIGHT,
    ),
    "a source that is called a label's": (
        lines("{i}.jpg,{k},human", "filename,label,label_source"),
        RIGHT,
    ),
    "numbers and another column of names": (
        lines("{i}.jpg,{k},{c}", "file,label,looks_like").replace("5.jpg,2,fox", "5.jpg,2,cat"),
        "contradict each other",
    ),
    "a label and a guess": (lines("{i}.jpg,{c},cat", "file,label,prediction"), RIGHT),
    "two labels that differ": (lines("{i}.jpg,{c},cat", "file,label,true_label"), "two ways"),
    "two columns of names": (lines("{i}.jpg {c} dog"), "two ways"),
    "two columns of numbers": (lines("{i}.jpg,{k},{i}", "file,class,target"), "contradict"),
    "two that say label": (lines("{i}.jpg,{k},{o}", "file,class,target"), "two ways"),
    "a fold": (lines("{i}.jpg,0,{k}", "file,fold,label"), RIGHT),
    "a fold, no label's heading": (lines("{i}.jpg,0,{k}", "file,fold,level"), "which of them"),
    "a box behind": (lines("{i}.jpg\t{c}\t0\t0\t62\t58"), RIGHT),
    "a box behind a number": (lines("{i}.jpg {k} 0 0 62 58"), "which of them is the label"),
    "Kaggle's boxes": (lines("{i},{c} 1 2 3 4 {c} 5 6 7 8", "ImageId,PredictionString"), RIGHT),
    "boxes of several classes": (lines("{i},{c} 1 2 3 4 dog 5 6 7 8"), "labelled 'fox 1 2"),
    "a score behind": (lines("{i}.jpg,{c},0.97"), RIGHT),
    "a class and a number": (lines("{i}.jpg,{c} 2", "file,label"), "labelled 'fox 2'"),
    "two classes in a field": (lines("{i}.jpg,{c} dog", "image,labels"), "labelled 'fox dog'"),
    "two numbers in a field": (
        lines("{i}.jpg {k}", more="").replace("3.jpg 1", "3.jpg 1 2"),
        "1 2",
    ),
    "one-hot": (lines("{i}.jpg,{flags}"), "which of them is the label"),
    "one-hot with a heading": (
        lines("{i}.jpg,{flags}", "image,cat,dog,fox"),
        "called like a class",
    ),
    "one-hot in floats": (
        lines("{i}.jpg,{flags}", "image,cat,dog,fox").replace(",0", ",0.0").replace(",1", ",1.0"),
        "called like a class",
    ),
    "flags beside the label": (lines("{i}.jpg,{flags},{c}", "image,cat,dog,fox,label"), RIGHT),
    # All parts
    "all parts": (lines("val/{i}.jpg,{c}", "filepath,label", "train/cat/000.jpg,cat"), RIGHT),
    "all parts of equal names": (
        lines("val/{i}.jpg,{c}", "path,label", "\n".join(f"train/{i}.jpg,cat" for i in range(9))),
        "labelled twice",
    ),
    "all parts, no suffixes": (lines("{i},{c}", "id,label", "test_1,wolf\ntest_2,wolf"), RIGHT),
    "other parts without labels": (lines("{i}.jpg,{k}", "id,label", "9.jpg,\n10.jpg,"), RIGHT),
    "most are elsewhere": (
        lines("{i}.jpg,{c}", "id,label", "\n".join(f"t{i}.jpg,x" for i in range(99))),
        RIGHT,
    ),
    # Gaps and jumbles
    "an image without a line": (lines("{i}.jpg {c}").replace("4.jpg", "40.jpg"), "no label for 1"),
    "a line without a label": (lines("{i}.jpg,{c}").replace("5.jpg,fox", "5.jpg,"), "labelled ''"),
    "a line twice": (lines("{i}.jpg {c}", more="3.jpg dog"), RIGHT),
    "two labels for one": (
        lines("{i}.jpg {c}", more="3.jpg cat"),
        "labelled twice, as dog and cat",
    ),
    "a class that is none": (lines("{i}.jpg {c}").replace("5.jpg fox", "5.jpg wolf"), "'wolf'"),
    "nothing but numbers": (lines("{k}"), "ImageNet's numbers need its whole development kit"),
    "nothing": ("", "expected 'name label'"),
    "JSON lines": (lines('{{"file_name": "{i}.jpg", "label": "{c}"}}'), "expected 'name label'"),
}


def read(path, text, names=FILES, classes=CLASSES):
    path.write_bytes(text.encode())
    return read_labels(path, path.parent, names, classes)


@pytest.mark.parametrize("text, expected", FORMS.values(), ids=FORMS)
def test_a_form_is_read_rightly_or_refused(text, expected, tmp_path):
    if expected is RIGHT:
        assert read(tmp_path / "labels.csv", text).indices == TRUTH
    else:
        with pytest.raises(DatasetError, match=re.escape(expected)):
            read(tmp_path / "labels.csv", text)


def test_lines_of_another_split_are_of_other_files(tmp_path):
    """A list of training images, whose files have the same names, labels no validation image."""
    val, others = tmp_path / "val", "\n".join(f"train/{i}.jpg,cat" for i in range(9))
    val.mkdir()
    both = lines("validation/{i}.jpg,{c}", "path,label", others)
    assert read(val / "labels.csv", both).indices == TRUTH
    with pytest.raises(DatasetError, match="expected 'name label'"):
        read(val / "labels.csv", lines("train/{i}.jpg {c}"))
    parts = lines("part1/{i}.jpg,{c}", "", others.replace("train", "part2"))
    (tmp_path / "part1").mkdir()
    assert read(tmp_path / "part1/labels.csv", parts).indices == TRUTH


NUMBERED = {
    "folders from 1, names": (["1", "2", "3"], "{one}", "label", RIGHT),
    "folders from 1, places": (["1", "2", "3"], "{k}", "label", "labelled '0'"),
    "folders from 1, places, told": (["1", "2", "3"], "{k}", "class_index", RIGHT),
    "folders with zeros": (["001", "002", "003"], "{one}", "label", RIGHT),
    "folders from 0": (["0", "1", "2"], "{k}", "label", RIGHT),
    "folders as strings sort": (["0", "1", "10"], "{c}", "label", RIGHT),
    "folders as strings sort, places": (["0", "1", "10"], "{k}", "label", "labelled '2'"),
    "folders of other numbers": (["7", "8", "9"], "{c}", "label", RIGHT),
    "folders of years": (["2019", "2020", "2021"], "{c}.0", "class_name", RIGHT),
}


@pytest.mark.parametrize("classes, label, heading, expected", NUMBERED.values(), ids=NUMBERED)
@pytest.mark.parametrize("headed", [True, False])
def test_numbers_where_class_folders_are_numbers(
    classes, label, heading, expected, headed, tmp_path
):
    if not headed and heading == "class_index":
        pytest.skip("only a heading can tell")
    text = lines("{i}.jpg," + label, f"file,{heading}" * headed, classes=classes)
    if expected is RIGHT:
        assert read(tmp_path / "labels.csv", text, classes=classes).indices == TRUTH
    else:
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path / "labels.csv", text, classes=classes)


def test_numbers_that_are_folders_and_places_are_refused_unless_the_heading_tells(tmp_path):
    """In sorted order, 10 comes before 2: label 2 is folder 2, or the third folder, 10."""
    classes = ["0", "1", "10", "2"]
    path = tmp_path / "labels.csv"
    names = ["a.jpg", "b.jpg", "c.jpg"]

    def labels(heading):
        return read(path, f"file,{heading}\na.jpg,0\nb.jpg,2\nc.jpg,1\n", names, classes).indices

    with pytest.raises(DatasetError, match=r"b\.jpg is 2 by .*'b\.jpg,2', and 10 by .*'b\.jpg,2'"):
        labels("label")
    assert labels("class_name") == [0, 3, 1]
    assert labels("class_index") == [0, 2, 1]


@pytest.mark.parametrize("odd", ["-1", "_1", "1.5", "1 2", "", "1e0", "+1", "\u0661"])
def test_what_is_like_a_number_is_not_that_class(odd, tmp_path):
    """Lists of test images have -1."""
    with pytest.raises(DatasetError, match=r"a\.jpg is labelled"):
        read(tmp_path / "l.csv", f"x,label\na.jpg,{odd}\nb.jpg,1\n", ["a.jpg", "b.jpg"], ["0", "1"])


def test_numbers_without_the_first_and_the_last_class_may_begin_at_0_or_1(tmp_path):
    text = "file,label\na.jpg,1\nb.jpg,2\n"
    names, path = ["a.jpg", "b.jpg"], tmp_path / "labels.csv"
    with pytest.raises(DatasetError, match="may begin at 0 or at 1"):
        read(path, text, names)
    assert read(path, text.replace("label", "class_index"), names).indices == [1, 2]
    assert read(path, text + "c.jpg,0\n", names).indices == [1, 2]


def test_what_was_chosen_is_said_in_one_line(tmp_path):
    path = tmp_path / "val.csv"
    own = lines("{i}.jpg,{o},{c}", "filename,label,class_name", "z.jpg,1,cat\nz.jpg,2,dog")
    chosen, skipped = read(path, own).remarks
    assert chosen == 'labels: column "class_name" of val.csv; 0.jpg is fox'
    assert "skipped 2 lines about files that are not in" in skipped and "z.jpg" in skipped
    assert read(path, lines("{i}.jpg {k}")).remarks == [
        "labels: column 2 of val.csv, numbers 0 to 2; 0.jpg is fox"
    ]


def test_files_without_a_label_that_are_no_images_are_skipped_and_said(tmp_path):
    found = read(tmp_path / "val.csv", lines("{i}.jpg {c}"), [*FILES, "LICENSE", "notes.txt"])
    assert found.indices == [*TRUTH, UNLABELLED, UNLABELLED]
    assert "2 files that are no images" in found.remarks[1] and "notes.txt" in found.remarks[1]
    with pytest.raises(DatasetError, match=r"no label for 1 of 10 files in .*: 9\.webp"):
        read(tmp_path / "val.csv", lines("{i}.jpg {c}"), [*FILES, "9.webp"])


@pytest.mark.parametrize(
    "names, told",
    [
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["x/a/1.jpg", "x/b/1"]),
        (["1.jpg", "b/1.jpg"], ["1.jpg", "b/1.jpg"]),
        (["1.jpg", "1.png"], ["1.jpg", "1.png"]),
        (["img.v2.jpg", "img.v3.jpg"], ["img.v2", "img.v3.jpg"]),
        (["a.jpg.png", "a.png"], ["a.jpg.png", "a.png"]),
        (["my cat.jpg", "my dog.jpg"], ["my cat.jpg", "my dog"]),
        (["#1.jpg", "a#.jpg"], ["#1.jpg", "a#.jpg"]),
        (["0001", "0002"], ["0001", "0002"]),
        (["a,b.jpg", "c;d.jpg"], ['"a,b.jpg"', "c;d.jpg"]),
    ],
)
def test_a_file_is_found_by_its_name(names, told, tmp_path):
    for form in (f"{told[0]}\tdog\n{told[1]}\tcat\n", f"dog\t{told[0]}\ncat\t{told[1]}\n"):
        assert read(tmp_path / "labels.txt", form, names).indices == [1, 0]


def test_two_columns_that_name_all_files_are_refused(tmp_path):
    """Three images 0 to 2 of three classes: either column may be the label."""
    with pytest.raises(DatasetError, match=r"0\.jpg is fox by .* in the line '0,2', and dog by"):
        read(tmp_path / "labels.txt", "0 2\n1 0\n2 1\n", FILES[:3])


def test_a_folder_that_differs_is_another_file(tmp_path):
    with pytest.raises(DatasetError, match="expected 'name label'"):
        read(tmp_path / "labels.txt", "dog/1.jpg cat\ndog/2.jpg dog\n", ["cat/1.jpg", "cat/2.jpg"])


CLASSES_WITH_BLANKS = {
    "blanks": ("a.jpg golden retriever\nb.jpg pug\n", RIGHT),
    "underscores": ("a.jpg golden_retriever\nb.jpg pug\n", RIGHT),
    "commas": ("a.jpg,Golden-Retriever\nb.jpg,PUG\n", RIGHT),
    "the last word is a class": ("a.jpg big pug\nb.jpg big pug\n", "read in two ways"),
}


@pytest.mark.parametrize("text, expected", CLASSES_WITH_BLANKS.values(), ids=CLASSES_WITH_BLANKS)
def test_class_names_of_two_words(text, expected, tmp_path):
    classes, names = ["big pug", "golden retriever", "pug"], ["a.jpg", "b.jpg"]
    if expected is RIGHT:
        assert read(tmp_path / "labels", text, names, classes).indices == [1, 2]
    else:
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path / "labels", text, names, classes)


def random_table(rng):
    """Columns by heading, of a random set of images, and the label of each image."""
    classes = sorted({f"{stem}{rng.integers(30)}" for stem in rng.choice(["n", "k", "c "], 8)})
    count = int(rng.integers(4, 40))
    truth = rng.integers(len(classes), size=count)
    own = rng.permutation(len(classes))
    names = [f"{kind}{i}" for i, kind in enumerate(rng.choice(["", "img_", "a b-"], count))]
    columns = {"filename": [f"{name}.jpg" for name in names]}
    labels = {
        "class_name": [classes[k] for k in truth],
        "label": truth.tolist(),
        "own_class": own[truth].tolist(),
    }
    kinds = rng.choice(["class_name", "label", "own_class"], rng.integers(1, 4), replace=False)
    columns |= {kind: labels[kind] for kind in kinds}
    extras = {
        "": rng.permutation(count).tolist(),
        "fold": rng.integers(3, size=count).tolist(),
        "width": rng.integers(9, 900, size=count).tolist(),
        "note": rng.choice(["", "x", "it's", "a b"], count).tolist(),
        "prediction": rng.choice(classes, count).tolist(),
        "id": names,
    }
    for extra in rng.choice(list(extras), rng.integers(0, 4), replace=False):
        columns[str(extra)] = extras[str(extra)]
    return classes, columns, truth.tolist()


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_the_order_of_columns_and_rows_changes_nothing(first, tmp_path):
    """With a heading that says which is which, all orders are read alike, and rightly; without
    one, rightly or not at all. Nothing can tell a list of own numbers alone from places, nor, where
    no heading does, guesses by name from labels.
    """
    for seed in range(first, first + 50):
        rng = np.random.default_rng(seed)
        classes, columns, truth = random_table(rng)
        names = columns["filename"]
        by_name = "class_name" in columns
        for _ in range(4):
            mark = rng.choice(list("\t;,|"))
            order = rng.permutation(list(columns))
            quote = rng.choice(["", '"'])
            body = [
                mark.join(f"{quote}{columns[c][row]}{quote}" for c in order)
                for row in rng.permutation(len(names))
            ]
            for heading in ([mark.join(order)], []):
                untold = {"own_class"} if heading else {"own_class", "prediction"}
                if not by_name and columns.keys() & untold:
                    continue
                text = "\n".join(heading + body)
                try:
                    found = read(tmp_path / "labels", text, names, classes).indices
                except DatasetError:
                    told = "label" in columns and 0 in truth and "prediction" not in columns
                    assert not (heading and (by_name or told)), text
                else:
                    assert found == truth, text


WEEDS = ["Chinee apple", "Lantana", "Negative", "Snake weed"]
PUBLIC = {
    "DeepWeeds: the class Negative has the last number, and comes third": (
        WEEDS,
        "Filename,Label,Species\na.jpg,0,Chinee apple\nb.jpg,8,Negative\nc.jpg,7,Snake weed\n"
        "d.jpg,8,Negative\ne.jpg,0,Chinee apple\nf.jpg,7,Snake weed\n",
        [0, 2, 3, 2, 0, 3],
    ),
    "a part of DeepWeeds, numbered anew": (
        WEEDS,
        "Filename,Label,Species\na.jpg,0,Chinee apple\nb.jpg,3,Negative\nc.jpg,2,Snake weed\n"
        "d.jpg,3,Negative\ne.jpg,0,Chinee apple\nf.jpg,2,Snake weed\n",
        [0, 2, 3, 2, 0, 3],
    ),
    "fastai 1008: pandas strips the zeros of folders": (
        ["001", "002", "003"],
        "file,label\na.jpg,1\nb.jpg,2\n",
        r"a\.jpg is 001 by .* and 002 by",
    ),
    "ImageNetV2 10, torchvision 714: folders of numbers sort as strings": (
        sorted(str(n) for n in range(12)),
        "a.jpg 0\nb.jpg 2\nc.jpg 11\n",
        r"b\.jpg is 2 by .* and 10 by",
    ),
    "Plant Pathology 2021, lightning-flash 728: several classes of one image": (
        ["healthy", "rust", "scab"],
        "image,labels\na.jpg,healthy\nb.jpg,scab rust\n",
        "labelled 'scab rust'",
    ),
    "ISIC 2019: a flag for each class": (
        ["BCC", "MEL", "NV"],
        "image,MEL,NV,BCC\na,0.0,1.0,0.0\nb,1.0,0.0,0.0\n",
        'column "MEL" is called like a class',
    ),
    "a flag that 0 and 1 of the folders contradict": (
        ["cactus", "no cactus"],
        "id,has_cactus\na.jpg,1\nb.jpg,0\n",
        'column "has_cactus": which of them is the label',
    ),
    "PaddleLabel 180: lists of numbers of several lengths": (
        ["c0", "c1", "c2", "c3", "c4"],
        "image\\a.jpg 4 0\nimage\\b.jpg 0\nimage\\c.jpg 2\n",
        "labelled '4 0'",
    ),
    "OIDv4 57: two words, parted by a blank or by _": (
        ["Adhesive_tape", "Brown_bear"],
        "ImageID,LabelName\na,Brown bear\nb,Adhesive tape\n",
        [1, 0],
    ),
    "Caffe for Windows 15: paths with blanks": (
        ["x", "y"],
        "F:\\cnn training\\S1\\a.jpg 1\nF:\\cnn training\\S2\\b.jpg 0\n",
        [1, 0],
    ),
    "FairFace: columns of other things": (
        ["Black", "East Asian", "White"],
        "file,age,gender,race,service_test\nval/a.jpg,3-9,Male,East Asian,False\n"
        "val/b.jpg,50-59,Female,White,True\n",
        [1, 2],
    ),
    "MLRSNet 4: a label was left out": (
        ["airplane", "beach"],
        "image,label\na.jpg,beach\nb.jpg,\n",
        "b.jpg is labelled ''",
    ),
    "ImageNet's own numbers, from 1 and in another order": (
        ["n01", "n02", "n03"],
        "a.JPEG 3\nb.JPEG 1\nc.JPEG 2\n",
        "begin at 1: subtract 1, if they count the sorted class folders",
    ),
}


@pytest.mark.parametrize("classes, text, expected", PUBLIC.values(), ids=PUBLIC)
def test_lists_of_public_reports(classes, text, expected, tmp_path):
    names = [f"{name}.jpg" for name in "abcdef" if re.search(rf"(?m)(^|[/\\]){name}\b", text)]
    if isinstance(expected, list):
        assert read(tmp_path / "labels.csv", text, names, classes).indices == expected
    else:
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path / "labels.csv", text, names, classes)
