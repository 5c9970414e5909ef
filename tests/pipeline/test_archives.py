"""Archives that training reads in place."""

import os

import numpy as np
import pytest

from pipeline.archives import read
from pipeline.dataset import ImageList
from pipeline.reader import Archives


@pytest.fixture
def archive(tmp_path):
    """A file of 10,000 bytes, and three images in it."""
    path = tmp_path / "some.tar"
    data = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    spans = [(8, 0, 10), (8, 4095, 2), (8, 5000, 5000)]
    names = [f"some.tar/{number}.jpg" for number in range(3)]
    return path, data, ImageList.of(str(tmp_path), names, [0] * 3, [(1, 1)] * 3, spans)


def test_bytes_are_those_of_the_file_and_what_is_missing_is_not_made_up(archive):
    path, data, images = archive
    archives = Archives(images)
    rows, filled = archives.read(np.array([2, 0, 1, 2]))
    assert rows.shape == (4, 5000) and filled.tolist() == [5000, 10, 2, 5000]
    for row, count, index in zip(rows, filled, [2, 0, 1, 2]):
        _, offset, size = images.spans[index]
        np.testing.assert_array_equal(row[:count], data[offset : offset + size])
        assert not row[count:].any()
    with open(path, "r+b") as file:
        file.truncate(6000)  # while it is open
    rows, filled = archives.read(np.array([2, 0]))
    assert filled.tolist() == [1000, 10]
    np.testing.assert_array_equal(rows[0, :1000], data[5000:6000])
    archives.close()


def test_archives_are_opened_once_and_closed(archive):
    _, _, images = archive
    before = os.listdir("/proc/self/fd")
    archives = Archives(images)
    for _ in range(5):
        archives.read(np.array([0, 1, 2] * 10))
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    archives.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_bytes_of_a_span_end_where_the_file_does(archive):
    path, data, _ = archive
    for offset, size in ((0, 10), (4095, 2), (5000, 5000), (9000, 5000)):
        expected = data[offset : offset + size]
        np.testing.assert_array_equal(read(str(path), offset, size), expected)
    with pytest.raises(ValueError, match="empty"):
        read(str(path), 10_000, 5)
