"""The feeder's pixels, labels and order, compared with Pillow and numpy."""

import os
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image

from alexnet_dali.pipeline import geometry, graph
from alexnet_dali.pipeline.crops import CentreCrop, RandomCrop, TenCrops
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Feeder
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.plan import OneStep
from alexnet_dali.pipeline.reading.requests import Requests
from alexnet_dali.pipeline.transform import Pixels, Transform
from tests.feeding import evaluation_plan, plain, shown, training_plan
from tests.images import prepare

PLAIN = plain(80)


def pillow_crop(path, box, mirrored, crop=80):
    """The same region by Pillow: an antialiased resize of the file's pixels."""
    image = Image.open(path).convert("RGB")
    top, left, bottom, right = box
    region = (left, top, min(right, image.width), min(bottom, image.height))
    pixels = image.resize((crop, crop), Image.Resampling.BILINEAR, box=region)
    pixels = np.asarray(pixels, np.float32)
    return (pixels[:, ::-1] if mirrored else pixels).transpose(2, 0, 1)


def box_of(size, corner, resize=96, crop=80):
    """Top, left, bottom and right of a crop at `corner` of the central square, in its file."""
    shorter = min(size)
    top, left = ((side - shorter) / 2 + at * shorter / resize for side, at in zip(size, corner))
    return top, left, top + crop * shorter / resize, left + crop * shorter / resize


def corners_of(samples, sizes, resize=96):
    """The corners of crops in the resized central square, whole numbers."""
    shorter = sizes.min(axis=1, keepdims=True)
    corners = (samples.boxes[:, :2] - (sizes - shorter) / 2) * resize / shorter
    np.testing.assert_allclose(corners, np.rint(corners), atol=1e-9)
    return np.rint(corners).astype(int)


def test_training_pixels_match_pillows(dataset):
    images, plan = dataset.train, training_plan(dataset.train, num_steps=6)
    for step, batch in enumerate(shown(images, plan, PLAIN)):
        samples = plan.samples(step, 0, 1)
        assert batch.images.shape == (12, 3, 80, 80) and batch.images.dtype == torch.float32
        assert batch.labels.tolist() == images.labels[samples.indices].tolist()
        sizes = images.sizes[samples.indices]
        for row, corner in enumerate(corners_of(samples, sizes)):
            box = box_of(sizes[row], corner)
            path = images.path(samples.indices[row])
            expected = pillow_crop(path, box, samples.mirrored[row])
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
    images, plan = dataset.train, training_plan(dataset.train, num_steps=3)
    for step, batch in enumerate(shown(images, plan, PLAIN)):
        samples = plan.samples(step, 0, 1)
        corners = corners_of(samples, images.sizes[samples.indices])
        for row, (top, left) in enumerate(corners):
            square = resized_square(images.path(samples.indices[row]))
            expected = square[top : top + 80, left : left + 80].transpose(2, 0, 1)
            found = batch.images[row].numpy()
            found = found[:, :, ::-1] if samples.mirrored[row] else found
            assert np.abs(found - expected).max() <= 1


def test_evaluation_pixels_match_pillows_and_each_image_counts_once(dataset):
    batches = shown(dataset.val, evaluation_plan(dataset.val, 96, 12), plain(96))
    labels = torch.cat([batch.labels for batch in batches])
    images = torch.cat([batch.images for batch in batches])[labels != IGNORE_INDEX]
    assert labels.tolist() == dataset.val.labels.tolist() + [IGNORE_INDEX] * 9
    for index, image in enumerate(images):
        box = box_of(dataset.val.sizes[index], (0, 0), crop=96)
        expected = pillow_crop(dataset.val.path(index), box, False, crop=96)
        assert np.abs(image.numpy() - expected).max() <= 4


def test_without_padding_only_the_images_themselves_come(dataset):
    batches = shown(dataset.val, evaluation_plan(dataset.val, 96, 12), plain(96), pad=False)
    assert [len(batch.images) for batch in batches] == [12, 3]
    padded = shown(dataset.val, evaluation_plan(dataset.val, 96, 12), plain(96))
    assert torch.equal(batches[1].images, padded[1].images[:3])
    assert torch.equal(batches[1].labels, padded[1].labels[:3])


def random_transform(**options):
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (80, 80, 3)).astype(np.float32)
    return Transform(80, mean, rng.normal(0, 5, (3, 3)), **options)


def check_lighting(dataset, plan, transform, gains):
    """Each image is its plain crop, less the mean image, plus one RGB offset, times a gain.

    The offset is the lighting directions times the image's three draws.
    """
    lit = shown(dataset.train, plan, transform)
    for step, (bare, batch) in enumerate(zip(shown(dataset.train, plan, PLAIN), lit, strict=True)):
        lighting = plan.samples(step, 0, 1).lighting
        assert lighting.any() == (gains[step] != 1 or transform.lit_gain == 1)
        offsets = np.einsum("ij,nj->ni", transform.directions, lighting)[:, :, None, None]
        expected = bare.images.numpy() - transform.mean_image.transpose(2, 0, 1) + offsets
        np.testing.assert_allclose(batch.images.numpy(), expected * gains[step], atol=1e-4)


def test_mean_and_lighting_are_added_after_the_flip(dataset):
    plan = training_plan(dataset.train, num_steps=3)
    check_lighting(dataset, plan, random_transform(), [1, 1, 1])


def test_only_images_with_lighting_are_rescaled_after_the_mean_is_subtracted(dataset):
    """The 2012 code computes (crop - mean + noise) / 1.1 while there is noise.

    From the epoch on that has no noise, it computes crop - mean.
    """
    plan = training_plan(dataset.train, num_steps=6, lighting_epochs=1)
    gains = [1 / 1.1] * 3 + [1] * 3
    check_lighting(dataset, plan, random_transform(lit_gain=1 / 1.1), gains)


def test_the_mean_is_the_centre_of_the_mean_image_or_one_number_for_each_channel(dataset):
    crops, whole = RandomCrop(224, 256), (1.0, 1.0, 1.0)
    by_pixel = Pixels("image", whole).transform(dataset.stats, crops)
    expected = dataset.stats.mean_image[16:240, 16:240]
    np.testing.assert_allclose(by_pixel.mean_image, expected, rtol=1e-6)
    assert by_pixel.mean == (0, 0, 0)
    by_channel = Pixels("channel", whole).transform(dataset.stats, crops)
    assert by_channel.mean_image is None
    np.testing.assert_allclose(by_channel.mean, dataset.stats.channel_mean, rtol=1e-6)


def test_mean_and_deviation_by_channel_are_those_of_numpy(dataset):
    plan = training_plan(dataset.train, num_steps=1)
    transform = Pixels(lighting_std=0.1).transform(dataset.stats, RandomCrop(80, 96))
    (bare,), (found,) = shown(dataset.train, plan, PLAIN), shown(dataset.train, plan, transform)
    deviation = np.sqrt(dataset.stats.channel_std() ** 2)[:, None, None]
    noise = plan.samples(0, 0, 1).lighting @ (0.1 * dataset.stats.lighting_directions()).T
    mean = dataset.stats.channel_mean[:, None, None]
    expected = (bare.images.numpy() - mean + noise[:, :, None, None]) / deviation
    np.testing.assert_allclose(found.images.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("num_shards", [2, 3, 4])
def test_batches_do_not_depend_on_ranks_or_threads(dataset, num_shards):
    plan = training_plan(dataset.train, num_steps=4)
    whole = shown(dataset.train, plan, PLAIN, num_threads=1)
    parts = [
        shown(dataset.train, plan, PLAIN, shard=shard, num_shards=num_shards)
        for shard in range(num_shards)
    ]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part[step].labels for part in parts]))


def test_a_feeder_that_starts_later_gives_the_same_batches(dataset):
    plan = training_plan(dataset.train)
    whole = shown(dataset.train, plan, PLAIN)
    later = shown(dataset.train, plan, PLAIN, first_step=7)
    assert len(later) == 5
    for one, other in zip(whole[7:], later, strict=True):
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
    images = Dataset.open(prepared).train
    plan = training_plan(images, batch_size=8, num_steps=1)
    with pytest.raises(DatasetError, match=r"b/002\.jpg"):
        shown(images, plan, PLAIN)
    shutil.rmtree(tmp_path / "images")


@dataclass(frozen=True)
class Given:
    """Crops of one's own: some of whole pixels, others not from the epoch `moved` on."""

    size: int = 40
    resize: int = 48
    views: int = 1
    moved: int = 99

    def draw(self, draws, sizes):
        room = sizes - self.size + 1
        start = np.floor(draws.uniform("mine", 2) * room)
        half = 0.5 * (draws.epoch >= self.moved) * (start + self.size < sizes)
        boxes = np.concatenate([start, start + self.size], axis=1) + np.tile(half, 2)
        return boxes, draws.uniform("flip", 1)[:, 0] < 0.5


CUTS = [RandomCrop(40, 48), CentreCrop(40, 48), TenCrops(40, 48), Given()]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Images whose shorter side is 48 pixels, and whose longer side leaves an even rest."""
    root = tmp_path_factory.mktemp("stored")
    folder = prepare(root, {"a": 20, "b": 16}, {"a": 2, "b": 2}, "--resize", "48")
    return Dataset.open(folder)


@pytest.mark.parametrize("crops", CUTS, ids=[type(crops).__name__ for crops in CUTS])
def test_boxes_of_whole_pixels_are_cut_whoever_drew_them(stored, crops, monkeypatch):
    """They have the file's own pixels, which resampling at scale 1 gives, too."""
    images, plan = stored.train, training_plan(stored.train, crops, num_steps=4)

    def none(*arguments):
        raise AssertionError("resampled")

    with monkeypatch.context() as planted:
        planted.setattr(geometry, "resampled", none)
        cut = shown(images, plan, plain(40))
    for step, batch in enumerate(cut):
        samples = plan.samples(step, 0, 1)
        top, left, bottom, right = samples.boxes.astype(int).T
        for row, index in enumerate(samples.indices):
            pixels = np.asarray(Image.open(images.path(index)).convert("RGB"), np.float32)
            expected = pixels[top[row] : bottom[row], left[row] : right[row]]
            expected = expected[:, ::-1] if samples.mirrored[row] else expected
            found = batch.images[row].numpy().transpose(1, 2, 0)
            assert np.abs(found - expected).max() <= 3 and np.abs(found - expected).mean() < 0.5
    monkeypatch.setattr("alexnet_dali.pipeline.feeder.are_cuts", lambda boxes, size: False)
    for one, other in zip(cut, shown(images, plan, plain(40)), strict=True):
        assert torch.equal(one.images, other.images)


def test_originals_are_resampled(dataset, monkeypatch):
    """If this fails, the test above proves nothing."""
    plan = training_plan(dataset.train, RandomCrop(40, 48), num_steps=1)

    def none(*arguments):
        raise AssertionError("resampled")

    monkeypatch.setattr(geometry, "resampled", none)
    with pytest.raises(AssertionError, match="resampled"):
        shown(dataset.train, plan, plain(40))


def test_a_set_that_begins_with_cuts_goes_on_with_other_regions(stored):
    """The second epoch's boxes lie between pixels. An epoch has 3 steps."""
    images, plan = stored.train, training_plan(stored.train, Given(moved=1), num_steps=9)
    assert geometry.are_cuts(plan.samples(2, 0, 1).boxes, 40)
    assert not geometry.are_cuts(plan.samples(3, 0, 1).boxes, 40)
    feeder = Feeder(images, plan, plain(40), num_threads=2)
    batches = list(feeder)
    feeder.close()
    assert len(batches) == 9
    for step, batch in enumerate(batches):
        samples = plan.samples(step, 0, 1)
        assert batch.labels.tolist() == images.labels[samples.indices].tolist()
        for row, index in enumerate(samples.indices):
            expected = pillow_crop(
                images.path(index), samples.boxes[row], samples.mirrored[row], crop=40
            )
            difference = np.abs(batch.images[row].numpy() - expected)
            assert difference.max() <= 4 and difference.mean() < 0.6  # halves are rounded
    for step, batch in enumerate(shown(images, plan, plain(40), first_step=4), 4):
        assert torch.equal(batch.images, batches[step].images)


def test_one_row_between_pixels_is_enough_to_resample(stored):
    images, plan = stored.train, training_plan(stored.train, CentreCrop(40, 48), num_steps=1)
    samples = plan.samples(0, 0, 1)
    boxes = samples.boxes.copy()
    boxes[7] += [0, 0.5, 0, 0.5]
    (whole,), (moved,) = (
        shown(images, OneStep(rows), plain(40)) for rows in (samples, samples._replace(boxes=boxes))
    )
    others = np.arange(12) != 7
    assert torch.equal(whole.images[others], moved.images[others])
    expected = pillow_crop(images.path(samples.indices[7]), boxes[7], False, crop=40)
    assert np.abs(moved.images[7].numpy() - expected).max() <= 4


def test_regions_that_are_resized_hold_all_pixels_that_the_filter_reaches():
    rng = np.random.default_rng(0)
    sizes = rng.integers(40, 500, (1000, 2)).astype(np.int32)
    start = rng.uniform(0, 1, (1000, 2)) * sizes * 0.7
    end = start + rng.uniform(0.05, 1, (1000, 2)) * (sizes - start)
    boxes, mirrored = np.hstack([start, end]), rng.random(1000) < 0.5
    regions = geometry.resampled(boxes, sizes, mirrored, 64)
    assert (regions.decode_start >= 0).all() and (regions.decode_end <= sizes).all()
    scale = (end - start) / 64
    reach = np.maximum(scale, 1)  # a triangle's half width, in source pixels
    first = np.maximum(np.floor(start + scale / 2 - reach), 0)
    last = np.minimum(np.ceil(end - scale / 2 + reach), sizes)
    assert (regions.decode_start <= first).all() and (regions.decode_end >= last).all()
    left, right = regions.start[:, 1], regions.end[:, 1]
    assert ((left > right) == mirrored).all()
    found = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)
    expected = boxes[:, 1::2] - regions.decode_start[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_ten_views_of_an_image_follow_one_another(dataset):
    plan = training_plan(dataset.train, TenCrops(80, 96), batch_size=4, num_steps=1)
    (batch,) = shown(dataset.train, plan, replace(PLAIN, dtype="uint8"))
    assert batch.images.shape == (40, 3, 80, 80) and batch.images.dtype == torch.uint8
    expected = dataset.train.labels[plan.samples(0, 0, 1).indices[::10]]
    assert batch.labels[::10].tolist() == expected.tolist()
    for view in range(5):
        mirrored = batch.images[view + 5].flip(-1).int() - batch.images[view].int()
        assert mirrored.abs().max() <= 1


class Corner:
    """An augmentation that blackens one corner, whatever it draws."""

    name = "corner"

    def draw(self, draws):
        return draws.uniform("corner", 1)[:, 0].astype(np.float32)

    def apply(self, pixels, drawn):
        return fn.erase(pixels, anchor=(0.0, 0.0), shape=(8.0, 8.0), axis_names="HW")


def test_augmentations_see_flipped_pixels_whether_crops_are_cut_or_resized(stored, monkeypatch):
    """A run may begin with one and resume with the other."""
    images, corner = stored.train, Corner()
    plan = training_plan(images, RandomCrop(40, 48), num_steps=1, augmentations=[corner])
    (cut,) = shown(images, plan, plain(40), augmentations=[corner])
    assert 0 < plan.samples(0, 0, 1).mirrored.sum() < len(cut.images)
    assert not cut.images[:, :, :8, :8].any() and cut.images[:, :, :8, -8:].any()
    monkeypatch.setattr("alexnet_dali.pipeline.feeder.are_cuts", lambda boxes, size: False)
    (resized,) = shown(images, plan, plain(40), augmentations=[corner])
    assert torch.equal(cut.images, resized.images)


def test_steps_that_are_made_together_are_those_that_are_made_alone(dataset):
    """To the bit, the lighting included."""
    plan = training_plan(dataset.train, batch_size=1, num_steps=3)
    directions = np.random.default_rng(0).normal(size=(3, 3))
    transform = Transform(80, None, directions, mean=(1.0, 2.0, 3.0))
    options = graph.GraphOptions(80, True, False, None)
    requests = Requests(dataset.train, plan, transform, options)
    together = requests.steps(range(3))
    for number, step in enumerate(together):
        (alone,) = requests.steps(range(number, number + 1))
        assert step.samples.lighting.any()
        for name, rows in step.request.items():
            for one, other in zip(rows, alone.request[name], strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    requests.close()


def test_the_next_steps_are_made_while_some_are_handed_out(dataset, monkeypatch):
    monkeypatch.setattr("alexnet_dali.pipeline.reading.requests._TOGETHER", 24)
    plan = training_plan(dataset.train, batch_size=8, num_steps=12)
    options = graph.GraphOptions(80, True, False, None)
    requests, asked, make = Requests(dataset.train, plan, plain(80), options), [], Requests.steps
    monkeypatch.setattr(requests, "steps", lambda run: asked.append(run) or make(requests, run))
    steps = requests.from_step(0)
    next(steps)
    steps.close()  # which ends what has begun
    assert [len(run) for run in asked] == [3, 2]  # an epoch has 5 steps
    requests.close()
