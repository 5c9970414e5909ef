import numpy as np
import pytest

from pipeline.plan import EvaluationPlan, TrainingPlan


def plan(**changes):
    arguments = {
        "num_images": 103,
        "batch_size": 12,
        "margin": 32,
        "seed": 5,
        "num_steps": 50,
    } | changes
    return TrainingPlan(**arguments)


def whole(plan, step, num_parts=1):
    """All rows of a step, read by `num_parts` ranks."""
    parts = [plan.views(step, part, num_parts) for part in range(num_parts)]
    return [np.concatenate(fields) for fields in zip(*(views[:5] for views in parts))]


def test_an_epoch_shows_no_image_twice_and_drops_the_partial_batch():
    for epoch in range(3):
        shown = np.concatenate([whole(plan(), epoch * 8 + step)[0] for step in range(8)])
        assert len(np.unique(shown)) == len(shown) == 96


def test_an_epoch_shows_every_image_once_if_the_batch_divides_their_number():
    shown = np.concatenate([whole(plan(num_images=96), step)[0] for step in range(8)])
    assert sorted(shown) == list(range(96))


@pytest.mark.parametrize("num_parts", [2, 3, 4])
def test_the_batch_is_the_same_for_any_number_of_ranks(num_parts):
    for step in (0, 7, 8, 31):
        for one, many in zip(whole(plan(), step), whole(plan(), step, num_parts)):
            np.testing.assert_array_equal(one, many)


def test_a_step_does_not_depend_on_which_steps_were_read_before():
    """A failure would mean that a plan keeps state: a resumed run would see other images."""
    used = plan()
    for step in range(40):
        used.views(step, 0, 1)
    for one, other in zip(whole(used, 40), whole(plan(), 40)):
        np.testing.assert_array_equal(one, other)


def test_epochs_and_seeds_differ():
    assert not np.array_equal(whole(plan(), 0)[0], whole(plan(), 8)[0])
    assert not np.array_equal(whole(plan(), 0)[0], whole(plan(seed=6), 0)[0])


def test_crops_are_uniform_over_all_positions_and_flips_are_fair():
    """There are 33 x 33 positions, with 100 crops expected in each.

    Chi-squared then has mean 1088 and standard deviation 46.6.
    """
    views = plan(num_images=108_900, batch_size=108_900).views(0, 0, 1)
    counts = np.bincount(views.corners[:, 0] * 33 + views.corners[:, 1], minlength=33 * 33)
    assert len(counts) == 33 * 33
    assert abs(((counts - 100) ** 2 / 100).sum() - 1088) < 4 * 46.6
    assert abs(views.mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(108_900)


def test_lighting_draws_are_standard_normal_and_independent():
    views = plan(num_images=100_000, batch_size=100_000).views(0, 0, 1)
    np.testing.assert_allclose(views.lighting.mean(0), 0, atol=4 / np.sqrt(100_000))
    np.testing.assert_allclose(np.cov(views.lighting.T), np.eye(3), atol=0.02)


def test_without_crops_and_flips_the_central_crop_is_shown_as_it_is():
    still, moving = plan(crops_and_flips=False).views(3, 0, 1), plan().views(3, 0, 1)
    assert (still.corners == 16).all() and not still.mirrored.any()
    np.testing.assert_array_equal(still.indices, moving.indices)
    np.testing.assert_array_equal(still.lighting, moving.lighting)


def test_lighting_stops_after_lighting_epochs():
    """An epoch has 8 steps."""
    short = plan(lighting_epochs=2)
    for step in (0, 15):
        np.testing.assert_array_equal(
            short.views(step, 0, 1).lighting, plan().views(step, 0, 1).lighting
        )
    for step in (16, 40):
        assert (
            not short.views(step, 0, 1).lighting.any() and plan().views(step, 0, 1).lighting.any()
        )


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
def test_an_evaluation_counts_every_image_once(num_parts):
    evaluation = EvaluationPlan(num_images=103, batch_size=12)
    assert evaluation.num_steps == 9
    indices, counted = [], []
    for step in range(evaluation.num_steps):
        fields = whole(evaluation, step, num_parts)
        indices.append(fields[0])
        counted.append(fields[4])
        assert not fields[2].any() and not fields[3].any()
    indices, counted = np.concatenate(indices), np.concatenate(counted)
    np.testing.assert_array_equal(indices[counted], np.arange(103))
