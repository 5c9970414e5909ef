"""Archives that training reads in place."""

import numpy as np
import pytest

from pipeline.archives import Archives


def test_bytes_are_those_of_the_file_and_an_archive_that_was_cut_is_named(tmp_path):
    path = tmp_path / "some.tar"
    data = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    archives = Archives()
    for offset, size in ((0, 10), (4095, 2), (5000, 5000)):
        found = archives.read(str(path), offset, size)
        np.testing.assert_array_equal(found, data[offset : offset + size])
    with open(path, "r+b") as file:
        file.truncate(6000)  # while it is open
    np.testing.assert_array_equal(archives.read(str(path), 5000, 1000), data[5000:6000])
    with pytest.raises(ValueError, match=r"some\.tar ends at byte 6000; the image needs 5000"):
        archives.read(str(path), 5000, 5000)
