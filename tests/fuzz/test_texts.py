"""Texts that people keep beside their images: labels, names of classes, development kits."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.io import savemat

import alexnet_dali.pipeline.prepare.workers  # noqa: F401 - the fork server then has what it needs
from alexnet_dali.pipeline.prepare.labels import devkit
from alexnet_dali.pipeline.prepare.labels.class_names import find_names, read_names
from alexnet_dali.pipeline.prepare.labels.label_file import read_labels
from alexnet_dali.pipeline.prepare.text import read_text
from tests.fuzz.harness import PLAIN, TEXTS, damaged, slow, works_or_says, zipped

CLASSES = ["n01", "n02", "n03", "10"]
NAMES = [f"images/V{number}.JPEG" for number in range(4)] + ["x y.png", "d.e/f.jpg"]
LABELS = [
    "".join(f"{name}\t{CLASSES[i % 3]}\t0\t0\t9\t9\n" for i, name in enumerate(NAMES)).encode(),
    "".join(f"{name},{i % 3}\r\n" for i, name in enumerate(NAMES)).encode(),
    ("ImageId,Label\n" + "".join(f"{n},n01 1 2 3 4 n02 5\n" for n in NAMES)).encode(),
    "".join(f'"{name}" n03\n' for name in NAMES).encode("utf-16"),
    ("#x\nsep=;\nname;label;fold\n" + "".join(f"{name};n02;1\n" for name in NAMES)).encode(
        "utf-8-sig"
    ),
]
WORDS = [
    b"n01\ttench, Tinca tinca\nn02\tgoldfish\nn03\tshark\n10\tten\n",
    b"0: a\n1: b\n2: c\n3: d\n",
    b'"n01", "tench"\n"n02", "goldfish"\nn03 x\n10 y\n',
    b"a\nb\nc\nd\n",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@given(data=damaged(*LABELS))
def test_label_files(data, place):
    path = place / "labels.txt"
    path.write_bytes(data)
    found = []
    works_or_says(lambda: found.extend(read_labels(path, place, NAMES, CLASSES).indices), str(path))
    assert len(found) in (0, len(NAMES)) and set(found) <= set(range(len(CLASSES)))


@given(
    rows=st.lists(
        st.lists(st.one_of(st.sampled_from(NAMES + CLASSES), TEXTS), max_size=4), max_size=9
    )
)
def test_label_files_of_odd_fields(rows, place):
    path = place / "labels.txt"
    path.write_bytes("\n".join("\t".join(row) for row in rows).encode(errors="replace"))
    works_or_says(lambda: read_labels(path, place, NAMES, CLASSES), str(path))


@given(data=damaged(*WORDS, *LABELS))
def test_names_of_classes(data, place):
    path = place / "words.txt"
    path.write_bytes(data)
    works_or_says(lambda: read_names(path, CLASSES), str(path))
    works_or_says(lambda: find_names(place / "train", None, CLASSES))


@given(
    data=damaged(
        zipped({"words.txt": WORDS[0], "b/x.txt": b"1"}), zipped({"words.txt": WORDS[0]}, 8)
    )
)
def test_texts_in_archives(data, place):
    path = place / "a.zip"
    path.write_bytes(data)
    works_or_says(lambda: read_text(path / "words.txt"), str(path))


def meta(ids=(1, 2, 3), wnids=("n03", "n01", "n02"), words=("a", "b", "c"), compress=False):
    """A kit's meta.mat."""
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    file = io.BytesIO()
    table = np.array([*zip(ids, wnids, words, strict=True)], fields).reshape(-1, 1)
    savemat(file, {"synsets": table}, do_compression=compress)
    return file.getvalue()


TRUTH = b"2\n2\n3\n3\n1\n1\n"
TRUTH_NAME = "ILSVRC2012_validation_ground_truth.txt"


def use_kit(path):
    labels = devkit.labels(path)
    assert all(isinstance(synset, str) for _, synset in labels)
    words = devkit.words(path)
    assert all(isinstance(text, str) for pair in words.items() for text in pair)


@slow
@given(table=damaged(meta(), meta(compress=True)), truth=st.one_of(st.just(TRUTH), damaged(TRUTH)))
def test_development_kits(table, truth, place):
    kit = place / "kit"
    kit.mkdir(exist_ok=True)
    (kit / "meta.mat").write_bytes(table)
    (kit / TRUTH_NAME).write_bytes(truth)
    works_or_says(lambda: use_kit(kit), str(kit))


ODD = st.one_of(
    PLAIN.filter(lambda value: value is not None), st.just(np.zeros((2, 2))), st.just(b"n01")
)


@slow
@given(
    key=st.sampled_from(("synsets", "synsets", "x")),
    columns=st.lists(st.lists(ODD, min_size=3, max_size=3), min_size=3, max_size=3),
    which=st.sampled_from((0, 1, 2, 3)),
)
@example(key="synsets", columns=[[1, 2, 3], [["n01"], ["n02"], ["n03"]], [1, 2, 3]], which=3)
def test_development_kits_of_other_values(key, columns, which, place):
    kit = place / "kit"
    kit.mkdir(exist_ok=True)
    sound = [[1, 2, 3], ["n03", "n01", "n02"], ["a", "b", "c"]]
    given_columns = columns if which == 3 else [*sound[:which], columns[which], *sound[which + 1 :]]
    table = np.empty((3, 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for name, column in zip(table.dtype.names, given_columns, strict=True):
        for row, value in enumerate(column):
            table[name][row, 0] = value
    file = io.BytesIO()
    try:
        savemat(file, {key: table})
    except Exception:  # no MATLAB file can hold it
        return
    (kit / "meta.mat").write_bytes(file.getvalue())
    (kit / TRUTH_NAME).write_bytes(TRUTH)
    works_or_says(lambda: use_kit(kit), str(kit))


@slow
@given(
    value=st.one_of(
        PLAIN.filter(lambda v: v is not None), st.sampled_from((np.zeros((3, 3)), "x", 5))
    )
)
def test_development_kits_without_a_table(value, place):
    kit = place / "kit"
    kit.mkdir(exist_ok=True)
    file = io.BytesIO()
    try:
        savemat(file, {"synsets": value})
    except Exception:  # no MATLAB file can hold it
        return
    (kit / "meta.mat").write_bytes(file.getvalue())
    (kit / TRUTH_NAME).write_bytes(TRUTH)
    works_or_says(lambda: use_kit(kit), str(kit))


def packed_kit(mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in (("k/meta.mat", meta()), (f"k/{TRUTH_NAME}", TRUTH)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


@slow
@given(data=damaged(*map(packed_kit, ("w:gz", "w", "w:xz", "w:bz2"))))
def test_packed_development_kits(data, place):
    path = place / "kit.tar.gz"
    path.write_bytes(data)
    works_or_says(lambda: use_kit(path), str(path))
