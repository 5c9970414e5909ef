"""The rows of the picture, against what each stage of the pipeline does."""

import numpy as np
import pytest
from PIL import Image

from pipeline.plan import TrainingPlan
from tools import show_batch


def test_each_row_adds_only_its_stage_to_the_row_before(dataset):
    views = TrainingPlan(len(dataset.train), 6, 16, seed=0, num_steps=1).views(0, 0, 1)
    assert views.mirrored.any() and not views.mirrored.all()
    resized, cropped, flipped, lit, final = show_batch.stages(dataset, views, 96, 80).values()
    for n, (top, left) in enumerate(views.corners):
        cut = resized[n, top : top + 80, left : left + 80]
        assert np.abs(cut - cropped[n]).max() <= 1
        mirror = cropped[n, :, ::-1] if views.mirrored[n] else cropped[n]
        assert np.abs(flipped[n] - mirror).max() <= 1
    offset = lit - flipped
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1, :1], offset.shape), atol=1e-4)
    assert np.abs(offset).max() > 0.1
    mean = dataset.stats.mean_at(96)[8:88, 8:88]
    np.testing.assert_allclose(lit - final, np.broadcast_to(mean, lit.shape), atol=1e-3)


def test_a_picture_is_drawn(prepared, tmp_path):
    show_batch.main(
        ["--data", str(prepared), "--out", str(tmp_path / "batch.png"), "--images", "3"]
    )
    with Image.open(tmp_path / "batch.png") as picture:
        assert picture.format == "PNG" and picture.height > picture.width


def test_asking_for_more_images_than_there_are_is_an_error(prepared, tmp_path):
    with pytest.raises(ValueError, match="42 training images"):
        show_batch.main(
            ["--data", str(prepared), "--out", str(tmp_path / "batch.png"), "--images", "43"]
        )
