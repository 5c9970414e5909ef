"""Parquet files: damaged ones, and sound ones whose columns are not images and labels."""

import io
import json

import pyarrow as arrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from alexnet_dali.pipeline.prepare.sources import training_files
from tests.fuzz.harness import PLAIN, altered, damaged, works_or_says

IMAGES = arrow.array([{"bytes": b"\xff\xd8%d" % i, "path": f"d/{i}.jpg"} for i in range(6)])
LABELS = arrow.array([0, 0, 1, 1, 2, 2])
FEATURES = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def table(columns, features=FEATURES, compression="none"):
    """A parquet file of (name, column)."""
    found = arrow.Table.from_arrays(
        [column for _, column in columns], [name for name, _ in columns]
    )
    about = {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
    file = io.BytesIO()
    parquet.write_table(found.replace_schema_metadata(about), file, compression=compression)
    return file.getvalue()


SOUND = [
    table([("image", IMAGES), ("label", LABELS)]),
    table([("image", IMAGES), ("label", LABELS)], None, "snappy"),
    table([("img", arrow.array([b"x"] * 6)), ("label", arrow.array(list("aabbcc")))], None),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet") / "train-0.parquet"


def use(path):
    """Whatever preparation would do with the file, but for decoding."""
    found = training_files(path)
    assert all(isinstance(name, str) for name in found.classes + (found.names or []))
    for index in range(len(found.source.names)):
        assert isinstance(found.source.listed_name(index), str)
        works_or_says(lambda index=index: found.source.content(index))


def used(path, data):
    path.write_bytes(data)
    return works_or_says(lambda: use(path), str(path))


def test_sound_files(path):
    assert [used(path, data) for data in SOUND] == [None] * 3


@given(data=damaged(*SOUND))
def test_damaged_files(data, path):
    used(path, data)


COLUMNS = [
    IMAGES,
    LABELS,
    arrow.array([None] * 6),
    arrow.array([None] * 6, arrow.int64()),
    arrow.array([0, 0, 1, 1, None, 2]),
    arrow.array([-1, 0, 1, 2, 3, 2**62]),
    arrow.array([0, 0, 1, 1, 2, 2], arrow.uint64()),
    arrow.array([0.5] * 6),
    arrow.array([True, False] * 3),
    arrow.array([b"\xff", b"", None] * 2),
    arrow.array(["a", "b\n", "\x1b[2J"] * 2),
    arrow.array(["a", "b", "c"] * 2).dictionary_encode(),
    arrow.array([[1], [2]] * 3),
    arrow.array([{"bytes": "text", "path": 1}] * 6),
    arrow.array([{"bytes": None, "path": None}] * 6),
    arrow.array([{"bytes": b"x"}, None] * 3),
    arrow.array([{"bytes": [1, 2], "path": [3]}] * 6),
    arrow.array([{"path": "x"}] * 6),
    arrow.array(
        [{"bytes": b"x", "path": name} for name in ("..", "/", "a\0b", "a\nb", "", "x/..")]
    ),
    arrow.StringArray.from_buffers(
        6,
        arrow.py_buffer(bytes([n for i in range(7) for n in (i, 0, 0, 0)])),
        arrow.py_buffer(b"\xff" * 6),
    ),
]
PLACES = st.integers(0, len(COLUMNS) - 1)
NAMES = st.sampled_from(("image", "label", "img", "a.b", "", "class", "\x1b", "image.path"))


@given(
    columns=st.lists(st.tuples(NAMES, PLACES), min_size=1, max_size=3),
    features=st.one_of(st.none(), altered(FEATURES), PLAIN),
)
@example(columns=[("image", 0), ("label", len(COLUMNS) - 1)], features=None)
@example(columns=[("image", 13), ("label", 1)], features=None)
@example(columns=[("image", 16), ("label", 1)], features=None)
@example(
    columns=[("image", 0), ("label", 1)], features={"label": {"_type": "ClassLabel", "names": 5}}
)
@example(
    columns=[("image", 0), ("label", 1)],
    features={"label": {"_type": "ClassLabel", "names": [1, 2, 3]}},
)
@example(columns=[("image", 0), ("label", 1), ("label", 1)], features=None)
def test_columns_of_other_kinds(columns, features, path):
    try:
        data = table([(name, COLUMNS[place]) for name, place in columns], features)
    except (arrow.ArrowException, ValueError):  # parquet can't hold it
        return
    used(path, data)
