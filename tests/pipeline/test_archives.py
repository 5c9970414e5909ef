"""Archives that training reads in place."""

import mmap

import numpy as np

from pipeline.archives import Archives


def test_reading_ahead_changes_no_bytes_and_stays_within_the_archive(tmp_path):
    path, data = (
        tmp_path / "some.tar",
        np.random.default_rng(0).integers(0, 256, 3 * mmap.PAGESIZE, dtype=np.uint8),
    )
    path.write_bytes(data.tobytes())
    archives = Archives()
    for offset, size in (
        (0, 10),
        (mmap.PAGESIZE - 1, 2),
        (5000, len(data)),
        (len(data), 10),
        (2 * len(data), 1),
    ):
        archives.read_ahead(str(path), offset, size)
        np.testing.assert_array_equal(
            archives.read(str(path), offset, size), data[offset : offset + size]
        )
