"""Archives that training reads in place."""

import io
import os
import signal

import numpy as np
import pytest

from alexnet_dali.pipeline.decode import decode_together
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.reading.archives import read
from alexnet_dali.pipeline.reading.reader import Archives
from tests.images import smooth_image
from tests.processes import running


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
    for indices in ([2, 0, 1, 2], [0], [1, 2] * 20):
        rows, filled = archives.read(np.array(indices))
        assert len(rows) == len(indices) and filled.tolist() == images.spans[indices, 2].tolist()
        for row, count, index in zip(rows, filled, indices):
            _, offset, size = images.spans[index]
            np.testing.assert_array_equal(row[:count], data[offset : offset + size])
            assert not row[count : -(-count // 8) * 8].any()  # its last word
    with open(path, "r+b") as file:
        file.truncate(6000)  # while it is open
    rows, filled = archives.read(np.array([2, 0]))
    assert filled.tolist() == [1000, 10]
    np.testing.assert_array_equal(rows[0, :1000], data[5000:6000])
    archives.close()


def test_an_archive_that_is_gone_gives_no_bytes(archive):
    path, _, images = archive
    path.unlink()
    archives = Archives(images)
    assert archives.read(np.array([0, 2]))[1].tolist() == [0, 0]
    archives.close()


def test_the_processes_and_their_memory_go_when_archives_are_closed_or_let_go_of(archive):
    _, _, images = archive
    before = len(os.listdir("/proc/self/fd"))
    archives = Archives(images)
    processes = [process.pid for process in archives._processes]
    archives.read(np.array([0, 1, 2] * 10))
    assert all(map(running, processes))
    archives.close()
    archives.close()
    assert not any(map(running, processes)) and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_reach_a_whole_job_do_not_end_the_processes(archive, number):
    _, _, images = archive
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    archives = Archives(images)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    for process in archives._processes:
        os.kill(process.pid, number)  # while it starts
    for _ in range(2):
        assert archives.read(np.array([0, 2] * 4))[1].tolist() == [10, 5000] * 4
        for process in archives._processes:
            os.kill(process.pid, number)
    archives.close()


def test_bytes_of_a_span_end_where_the_file_does(archive):
    path, data, _ = archive
    for offset, size in ((0, 10), (4095, 2), (5000, 5000), (9000, 5000)):
        expected = data[offset : offset + size]
        np.testing.assert_array_equal(read(str(path), offset, size), expected)
    with pytest.raises(ValueError, match="empty"):
        read(str(path), 10_000, 5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_zeros_behind_an_image_change_no_pixel(kind):
    """They fill up the last word of what is read from an archive."""
    file = io.BytesIO()
    smooth_image(np.random.default_rng(0), 40, 56).save(file, kind)
    padded = [np.frombuffer(file.getvalue() + bytes(count), np.uint8) for count in (0, 1, 7)]
    pixels, *others = decode_together(padded)
    for other in others:
        np.testing.assert_array_equal(other, pixels)
