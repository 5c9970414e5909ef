"""The loader's pixels, labels and order, compared with Pillow and numpy."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.dataset import Dataset, DatasetError
from pipeline.loader import NOT_COUNTED, Loader
from pipeline.plan import EvaluationPlan, TrainingPlan
from pipeline.preprocessing import Preprocessing
from tests.images import prepare

PLAIN = Preprocessing.nothing(96, 80)


def training_plan(dataset, num_steps=12):
    return TrainingPlan(len(dataset.train), batch_size=12, margin=16, seed=3, num_steps=num_steps)


def load(images, plan, preprocessing=PLAIN, **options):
    return list(Loader(images, plan, preprocessing, **{"num_threads": 2, **options}))


def pillow_crop(path, corner, mirrored, resize=96, crop=80):
    """The same crop by Pillow: an antialiased resize of the same region of the file's pixels."""
    image = Image.open(path).convert("RGB")
    shorter = min(image.size)
    scale = shorter / resize
    left = (image.width - shorter) / 2 + corner[1] * scale
    top = (image.height - shorter) / 2 + corner[0] * scale
    box = (left, top, min(left + crop * scale, image.width), min(top + crop * scale, image.height))
    pixels = np.asarray(image.resize((crop, crop), Image.Resampling.BILINEAR, box=box), np.float32)
    return (pixels[:, ::-1] if mirrored else pixels).transpose(2, 0, 1)


def test_training_pixels_match_pillows(dataset):
    plan = training_plan(dataset, num_steps=6)
    for step, batch in enumerate(load(dataset.train, plan)):
        views = plan.views(step, 0, 1)
        assert batch.images.shape == (12, 3, 80, 80) and batch.images.dtype == torch.float32
        assert batch.labels.tolist() == dataset.train.labels[views.indices].tolist()
        for row, index in enumerate(views.indices):
            expected = pillow_crop(
                dataset.train.path(index), views.corners[row], views.mirrored[row]
            )
            difference = np.abs(batch.images[row].numpy() - expected)
            assert difference.max() <= 4 and difference.mean() < 0.5


def resized_square(path, resize=96):
    """The whole central square, resized in float64.

    The filter is a triangle, as wide as a pixel of the coarser grid.
    """
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
    shorter = min(pixels.shape[:2])
    scale = shorter / resize
    for _ in range(2):  # rows, then columns
        size = len(pixels)
        centres = (size - shorter) / 2 + (np.arange(resize) + 0.5) * scale
        sources = np.arange(-100, size + 100)  # beyond the image, its outermost pixels repeat
        weights = np.clip(1 - np.abs(sources + 0.5 - centres[:, None]) / max(scale, 1), 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.einsum("ij,jkc->ikc", weights, pixels[np.clip(sources, 0, size - 1)]).swapaxes(
            0, 1
        )
    return pixels


def test_resizing_only_a_region_equals_resizing_the_whole_image_and_cropping(dataset):
    plan = training_plan(dataset, num_steps=3)
    for step, batch in enumerate(load(dataset.train, plan)):
        views = plan.views(step, 0, 1)
        for row, index in enumerate(views.indices):
            top, left = views.corners[row]
            expected = resized_square(dataset.train.path(index))[
                top : top + 80, left : left + 80
            ].transpose(2, 0, 1)
            found = batch.images[row].numpy()
            assert (
                np.abs((found[:, :, ::-1] if views.mirrored[row] else found) - expected).max() <= 1
            )


def test_evaluation_pixels_match_pillows_and_each_image_counts_once(dataset):
    preprocessing = Preprocessing.nothing(96)
    batches = load(dataset.val, EvaluationPlan(len(dataset.val), 12), preprocessing)
    labels = torch.cat([batch.labels for batch in batches])
    images = torch.cat([batch.images for batch in batches])[labels != NOT_COUNTED]
    assert labels.tolist() == dataset.val.labels.tolist() + [NOT_COUNTED] * 9
    for index, image in enumerate(images):
        expected = pillow_crop(dataset.val.path(index), (0, 0), False, crop=96)
        assert np.abs(image.numpy() - expected).max() <= 4


def test_mean_and_lighting_are_added_after_the_flip(dataset):
    """Each image is its plain crop, less the mean image, plus one RGB offset.

    The offset is the lighting directions times the image's three draws.
    """
    rng = np.random.default_rng(0)
    mean, directions = rng.uniform(0, 255, (80, 80, 3)).astype(np.float32), rng.normal(0, 5, (3, 3))
    plan = training_plan(dataset, num_steps=3)
    lit = load(dataset.train, plan, Preprocessing(96, 80, mean, directions))
    for step, (plain, batch) in enumerate(zip(load(dataset.train, plan), lit)):
        offsets = np.einsum("ij,nj->ni", directions, plan.views(step, 0, 1).lighting)
        expected = plain.images.numpy() - mean.transpose(2, 0, 1) + offsets[:, :, None, None]
        np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-4)


def test_only_images_with_lighting_are_rescaled_after_the_mean_is_subtracted(dataset):
    """The 2012 code computes (crop - mean + noise) / 1.1 while there is noise.

    From the epoch on that has no noise, it computes crop - mean.
    """
    rng = np.random.default_rng(0)
    mean, directions = rng.uniform(0, 255, (80, 80, 3)).astype(np.float32), rng.normal(0, 5, (3, 3))
    plan = TrainingPlan(len(dataset.train), 12, margin=16, seed=3, num_steps=6, lighting_epochs=1)
    scaled = load(dataset.train, plan, Preprocessing(96, 80, mean, directions, lit_gain=1 / 1.1))
    for step, (plain, batch) in enumerate(zip(load(dataset.train, plan), scaled)):
        offsets = np.einsum("ij,nj->ni", directions, plan.views(step, 0, 1).lighting)
        expected = plain.images.numpy() - mean.transpose(2, 0, 1) + offsets[:, :, None, None]
        assert (offsets != 0).all() == (step < 3)
        np.testing.assert_allclose(
            batch.images.numpy(), expected / (1.1 if step < 3 else 1), atol=1e-4
        )


def test_the_mean_is_the_centre_of_the_mean_image_or_one_number_for_each_channel(dataset):
    by_pixel = Preprocessing.of(dataset.stats, 256, 224, "image", 0.1)
    np.testing.assert_allclose(
        by_pixel.mean_image, dataset.stats.mean_image[16:240, 16:240], rtol=1e-6
    )
    by_channel = Preprocessing.of(dataset.stats, 256, 224, "channel", 0.1)
    np.testing.assert_allclose(by_channel.mean_image[5, 7], dataset.stats.channel_mean, rtol=1e-6)


@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_batches_do_not_depend_on_ranks_or_threads(dataset, num_parts):
    plan = training_plan(dataset, num_steps=4)
    whole = load(dataset.train, plan, num_threads=1)
    parts = [load(dataset.train, plan, part=part, num_parts=num_parts) for part in range(num_parts)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part[step].labels for part in parts]))


def test_a_loader_that_starts_later_gives_the_same_batches(dataset):
    plan = training_plan(dataset)
    whole = load(dataset.train, plan)
    later = load(dataset.train, plan, first_step=7)
    assert len(later) == 5
    for one, other in zip(whole[7:], later):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("damage", ["gone", "cut", "other size"])
def test_a_file_damaged_after_preparing_is_named(tmp_path, damage):
    prepared = prepare(tmp_path, {"a": 4, "b": 4})
    victim = tmp_path / "images/train/b/002.jpg"
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        os.truncate(victim, 400)
    else:
        Image.new("RGB", (20, 10)).save(victim)
    dataset = Dataset.open(prepared)
    plan = TrainingPlan(len(dataset.train), batch_size=8, margin=16, seed=0, num_steps=1)
    with pytest.raises(DatasetError, match=r"b/002\.jpg"):
        load(dataset.train, plan)
    shutil.rmtree(tmp_path / "images")
