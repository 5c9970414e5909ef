"""What steps show: a function of (seed, step) alone, with the right distributions."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from alexnet_dali.pipeline.crops import CentreCrop, RandomCrop, RandomResizedCrop, TenCrops
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.plan import EpochPlan, in_order, shuffled
from tests.feeding import evaluation_plan, some_images, training_plan

CROPS = RandomCrop(224, 256)


def plan(num_images=103, crops=CROPS, **options):
    return training_plan(some_images(num_images), crops, **{"seed": 5, "num_steps": 50, **options})


def whole(plan, step, num_shards=1):
    """All rows of a step, read by `num_shards` ranks; what is drawn for augmentations last."""
    shards = [plan.samples(step, shard, num_shards) for shard in range(num_shards)]
    fields = [(*samples[:5], *samples.drawn.values()) for samples in shards]
    return [np.concatenate(parts) for parts in zip(*fields)]


class Noise:
    """An augmentation that draws two numbers for each row."""

    name = "noise"

    def draw(self, draws):
        return draws.normal("noise", 2).astype(np.float32)

    def apply(self, pixels, drawn):
        return pixels


def test_an_epoch_shows_no_image_twice_and_drops_the_partial_batch():
    for epoch in range(3):
        shown = np.concatenate([whole(plan(), epoch * 8 + step)[0] for step in range(8)])
        assert len(np.unique(shown)) == len(shown) == 96


def test_an_epoch_shows_every_image_once_if_the_batch_divides_their_number():
    shown = np.concatenate([whole(plan(num_images=96), step)[0] for step in range(8)])
    assert sorted(shown) == list(range(96))


@pytest.mark.parametrize("num_shards", [2, 3, 4])
@pytest.mark.parametrize("crops", [CROPS, RandomResizedCrop(224), TenCrops(224, 256)])
def test_the_batch_is_the_same_for_any_number_of_ranks(crops, num_shards):
    options = {"crops": crops, "augmentations": (Noise(),)}
    for step in (0, 7, 8, 31):
        one, many = whole(plan(**options), step), whole(plan(**options), step, num_shards)
        assert len(one) == 6 and one[5].shape == (12 * crops.views, 2)
        for field, other in zip(one, many, strict=True):
            np.testing.assert_array_equal(field, other)


def test_an_augmentation_changes_nothing_that_is_drawn_for_others():
    for one, other in zip(whole(plan(), 5), whole(plan(augmentations=(Noise(),)), 5)):
        np.testing.assert_array_equal(one, other)


def test_a_step_does_not_depend_on_which_steps_were_asked_for_before():
    """A failure would mean that a plan keeps state: a resumed run would see other images."""
    used = plan()
    for step in [*range(40), 3, 90, 17, 400]:
        used.samples(step, 0, 1)
    for step in (40, 12):
        for one, other in zip(whole(used, step), whole(plan(), step), strict=True):
            np.testing.assert_array_equal(one, other)


def test_epochs_and_seeds_differ():
    for field in range(4):
        here = whole(plan(), 0)[field]
        assert not np.array_equal(here, whole(plan(), 8)[field])
        assert not np.array_equal(here, whole(plan(seed=6), 0)[field])


def test_crops_are_uniform_over_all_positions_and_flips_are_fair():
    """There are 33 x 33 positions, with 100 crops expected in each.

    Chi-squared then has mean 1088 and standard deviation 46.6.
    """
    samples = plan(num_images=108_900, batch_size=108_900).samples(0, 0, 1)
    corners = samples.boxes[:, :2].astype(int)
    np.testing.assert_array_equal(samples.boxes, np.hstack([corners, corners + 224]))
    counts = np.bincount(corners[:, 0] * 33 + corners[:, 1], minlength=33 * 33)
    assert len(counts) == 33 * 33
    assert abs(((counts - 100) ** 2 / 100).sum() - 1088) < 4 * 46.6
    assert abs(samples.mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(108_900)
    halves = counts.sum() / 2  # flips are independent of places
    assert abs((samples.mirrored == (corners[:, 0] > 16)).sum() - halves) < 0.02 * halves


def test_lighting_draws_are_standard_normal_and_independent():
    samples = plan(num_images=100_000, batch_size=100_000).samples(0, 0, 1)
    np.testing.assert_allclose(samples.lighting.mean(0), 0, atol=4 / np.sqrt(100_000))
    np.testing.assert_allclose(np.cov(samples.lighting.T), np.eye(3), atol=0.02)


def test_each_view_of_an_image_has_a_lighting_of_its_own():
    samples = plan(crops=TenCrops(224, 256)).samples(0, 0, 1)
    assert len(np.unique(samples.indices)) == 12 and samples.lighting.shape == (120, 3)
    assert len(np.unique(samples.lighting, axis=0)) == 120


def test_other_crops_change_neither_the_order_nor_the_lighting():
    still, moving = plan(crops=CentreCrop(224, 256)).samples(3, 0, 1), plan().samples(3, 0, 1)
    assert (still.boxes == [16, 16, 240, 240]).all() and not still.mirrored.any()
    np.testing.assert_array_equal(still.indices, moving.indices)
    np.testing.assert_array_equal(still.lighting, moving.lighting)


def test_lighting_stops_after_lighting_epochs():
    """An epoch has 8 steps."""
    short = plan(lighting_epochs=2)
    for step in (0, 15):
        np.testing.assert_array_equal(
            short.samples(step, 0, 1).lighting, plan().samples(step, 0, 1).lighting
        )
    for step in (16, 40):
        assert not short.samples(step, 0, 1).lighting.any()
        assert plan().samples(step, 0, 1).lighting.any()


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4])
def test_an_evaluation_counts_every_image_once(num_shards):
    evaluation = evaluation_plan(some_images(103), 256, batch_size=12)
    assert evaluation.num_steps == 9
    rows = [whole(evaluation, step, num_shards) for step in range(9)]
    indices, _, mirrored, lighting, valid = map(np.concatenate, zip(*rows))
    assert not mirrored.any() and not lighting.any()
    np.testing.assert_array_equal(indices[valid], np.arange(103))


def test_an_image_that_an_order_gives_twice_is_shown_by_two_crops():
    def twice(rng, labels):
        return np.repeat(rng.permutation(len(labels)), 2)

    samples = EpochPlan(some_images(50), 100, RandomResizedCrop(), twice, seed=0).samples(0, 0, 1)
    pairs = samples.boxes.reshape(50, 2, 4)
    np.testing.assert_array_equal(samples.indices[::2], samples.indices[1::2])
    assert (pairs[:, 0] != pairs[:, 1]).any(axis=1).all()


def test_rows_that_are_replaced_are_drawn_for_the_image_that_is_shown():
    """The others stay as they are; the row keeps its flip and lighting."""
    sizes = [(256, 256 + 10 * number) for number in range(24)]
    images = ImageList.of("", list(map(str, range(24))), [0] * 24, sizes)
    draws = training_plan(images, RandomCrop(224, 256, flip=0.5))
    before = draws.samples(0, 0, 1)
    row, other = 5, int(before.indices[5] + 1) % 24

    def replaced(indices):
        found = indices.copy()
        found[indices == before.indices[row]] = other
        return found

    after = draws.samples(0, 0, 1, replaced)
    left = np.arange(12) != row
    for one, two in zip(before[:5], after[:5], strict=True):
        np.testing.assert_array_equal(one[left], two[left])
    assert after.indices[row] == other and after.mirrored[row] == before.mirrored[row]
    np.testing.assert_array_equal(after.lighting[row], before.lighting[row])
    shift = (images.sizes[other][1] - images.sizes[before.indices[row]][1]) / 2
    np.testing.assert_allclose(after.boxes[row], before.boxes[row] + [0, shift, 0, shift])


def test_later_orders_are_drawn_in_another_thread_and_no_more_than_three_are_kept():
    """The first where the plan is made: no thread has then begun, and the process may be forked."""
    drawn = []

    def order(rng, labels):
        drawn.append(threading.current_thread())
        return rng.permutation(len(labels))

    plan = EpochPlan(some_images(24), 12, CROPS, order, seed=0)
    for step in [*range(20), 3, 100, 7]:
        plan.samples(step, 0, 1)
        assert len(plan._orders._drawn) <= 3
    first, *later = drawn
    assert first is threading.main_thread() and first not in later and len(set(later)) == 1
    before = len(drawn)
    for _ in range(5):  # an order that is there is not drawn again
        plan.samples(7, 0, 1)
    plan._orders.of(3)
    assert len(drawn) <= before + 1


@pytest.mark.parametrize("kind", ["raises", "shorter", "outside"])
def test_an_order_that_fails_does_so_in_the_epoch_that_it_is_for(kind):
    epochs = iter(range(10))

    def order(rng, labels):
        if next(epochs) < 2:
            return np.arange(len(labels))
        if kind == "raises":
            raise KeyError("no weights")
        return np.arange(12) if kind == "shorter" else np.arange(len(labels)) + 1

    plan = EpochPlan(some_images(24), 12, CROPS, order, seed=0)
    for step in range(4):
        plan.samples(step, 0, 1)
    message = {
        "raises": "no weights",
        "shorter": "12 images in epoch 2 and 24 in another",
        "outside": "numbers from 1 to 24 in epoch 2",
    }[kind]
    for _ in range(2):
        with pytest.raises((KeyError, ValueError), match=message):
            plan.samples(4, 0, 1)


def test_loops_in_different_epochs_can_share_a_plan():
    """Two iterators of a loader do, each with a thread of its own."""
    shared, expected = plan(num_images=24), plan(num_images=24)
    failures = []

    def loop(start):
        try:
            for step in range(start, start + 400):
                shared.samples(step, 0, 1)
        except BaseException as error:
            failures.append(error)

    loops = [threading.Thread(target=loop, args=(start,)) for start in (0, 1000, 50_000)]
    for one in loops:
        one.start()
    for one in loops:
        one.join()
    assert not failures
    for step in (0, 7, 1001):
        np.testing.assert_array_equal(
            shared.samples(step, 0, 1).indices, expected.samples(step, 0, 1).indices
        )


@dataclass(frozen=True)
class Given:
    """Crops that give the same box for every image."""

    box: tuple[float, ...]
    size: int = 32
    resize: int = 32
    views: int = 1

    def draw(self, draws, sizes):
        return np.tile(np.array(self.box, np.float64), (len(sizes), 1)), np.zeros(len(sizes), bool)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 32, 257), (-1, 0, 32, 32), (9, 9, 9, 20), (0, 0, np.nan, 32), (30, 0, 20, 32), (0, 0)],
)
def test_crops_that_leave_the_image_are_not_blamed_on_it(box):
    plan = EpochPlan(some_images(24), 12, Given(box), in_order, seed=0)
    with pytest.raises(ValueError, match=r"Given\(.* expected .* inside"):
        plan.samples(0, 0, 1)


@pytest.mark.parametrize(
    "drawn", [np.zeros(12), np.zeros(11, np.float32), np.zeros(12, np.int64), np.float32(0)]
)
def test_what_an_augmentation_draws_amiss_is_not_blamed_on_images(drawn, monkeypatch):
    monkeypatch.setattr(Noise, "draw", lambda self, draws: drawn)
    with pytest.raises(ValueError, match=r"the augmentation noise draws .* for each of 12 rows"):
        plan(augmentations=[Noise()]).samples(0, 0, 1)


def test_plans_say_what_does_not_fit():
    for arguments, message in [
        ((12, CROPS, shuffled, -1), "seed is -1"),
        ((12, RandomCrop, shuffled, 0), "crops is .*expected one such as"),
        ((104, CROPS, shuffled, 0), "global_batch_size is 104, but an epoch has 103 images"),
    ]:
        with pytest.raises(ValueError, match=message):
            EpochPlan(some_images(103), *arguments)
