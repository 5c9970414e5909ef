import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_dali.pipeline.stats import PixelSums


def test_statistics_match_numpys_over_all_pixels():
    rng = np.random.default_rng(0)
    mixing = rng.uniform(0, 1, (3, 3))
    images = (rng.integers(0, 256, (4, 256, 256, 3)) @ mixing / mixing.sum(0)).astype(np.uint8)
    parts = [PixelSums(), PixelSums()]
    for number, image in enumerate(images):
        parts[number // 3].add(image)
    parts[0].merge(parts[1])
    stats = parts[0].stats()
    pixels = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(stats.mean_image, images.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats.channel_mean, pixels.mean(0), rtol=1e-12)
    covariance = np.cov(pixels.T, bias=True)
    np.testing.assert_allclose(
        covariance @ stats.eigenvectors, stats.eigenvectors * stats.eigenvalues, atol=1e-3
    )
    np.testing.assert_allclose(stats.eigenvectors.T @ stats.eigenvectors, np.eye(3), atol=1e-12)
    assert (np.diff(stats.eigenvalues) <= 0).all()
    directions = stats.lighting_directions()
    # Lighting noise has the covariance of the pixels
    np.testing.assert_allclose(directions @ directions.T, covariance, rtol=1e-4)


def test_statistics_are_the_same_after_saving_and_loading(tmp_path, dataset):
    with open(tmp_path / "stats.npz", "wb") as file:
        dataset.stats.save(file)
    again = type(dataset.stats).load(tmp_path / "stats.npz")
    for key, value in vars(dataset.stats).items():
        np.testing.assert_array_equal(getattr(again, key), value)


@pytest.mark.parametrize("size", [64, 100])
def test_the_mean_at_another_size_is_an_area_average(dataset, size):
    expected = [
        np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BOX))
        for channel in dataset.stats.mean_image.transpose(2, 0, 1)
    ]
    tolerance = 1e-3 if 256 % size == 0 else 1.5  # Pillow's box filter takes whole pixels only
    np.testing.assert_allclose(
        dataset.stats.mean_at(size), np.stack(expected, axis=2), atol=tolerance
    )


STATS = """
import numpy as np
from alexnet_dali.pipeline.stats import PixelSums
sums, rng = PixelSums(), np.random.default_rng(0)
for _ in range(4):
    sums.add(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) // np.array([1, 2, 3], np.uint8))
print(*(value.tobytes().hex() for value in vars(sums.stats()).values()))
"""


@pytest.mark.slow
def test_statistics_have_the_same_bits_on_every_kind_of_cpu():
    """OpenBLAS computes as on an older one, and numpy without its newer instructions."""
    kinds: list[dict[str, str]] = [
        {},
        {
            "OPENBLAS_CORETYPE": "Nehalem",
            "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3",
        },
        {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX"},
    ]
    found = {
        subprocess.run(
            [sys.executable, "-c", STATS], env=os.environ | kind, capture_output=True, check=True
        ).stdout
        for kind in kinds
    }
    assert len(found) == 1 and len(found.pop()) > 2 * 4 * 3 * 256**2


def test_eigenvectors_point_the_same_way_and_are_numpys():
    rng = np.random.default_rng(1)
    for _ in range(20):
        sums = PixelSums()
        base = rng.integers(0, 200, (256, 256, 1))
        sums.add((base + rng.integers(0, 50, (256, 256, 3))).astype(np.uint8))
        stats = sums.stats()
        assert (np.sign(stats.eigenvectors[2]) == [-1, 1, 1]).all()
        covariance = (stats.eigenvectors * stats.eigenvalues) @ stats.eigenvectors.T
        values, vectors = np.linalg.eigh(covariance)
        np.testing.assert_allclose(stats.eigenvalues, values[::-1], rtol=1e-12)
        overlap = np.abs((stats.eigenvectors * vectors[:, ::-1]).sum(0))
        np.testing.assert_allclose(overlap, 1, atol=1e-12)
    grey = PixelSums()
    grey.add(np.broadcast_to(base, (256, 256, 3)).astype(np.uint8))
    assert (grey.stats().eigenvalues[1:] < 1e-9).all() and grey.stats().eigenvalues[0] > 100
