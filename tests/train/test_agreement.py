"""Ranks ask each other for signals and checkpoints.

All must do so after the same steps, and soon enough.
"""

import itertools

import pytest

from alexnet_dali.train.parallel import agreement
from alexnet_dali.train.parallel.agreement import Agreement


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(agreement.time, "monotonic", lambda: clock.now)
    return clock


def meetings(clock, paces):
    """The times at which ranks of one speed meet; `paces` are the seconds of each step."""
    times = []
    ranks = Agreement(lambda flags: times.append(clock.now) or flags)
    for pace in paces:
        clock.now += pace
        ranks.after_step(0.0)
    return times


@pytest.mark.parametrize("pace", [0.0005, 0.004, 0.1, 0.9, 5.0])
def test_ranks_meet_within_every_second_but_not_after_every_short_step(pace, clock):
    times = meetings(clock, [pace] * 4000)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) <= max(1.0, 1.001 * pace)
    if pace < 0.1:
        assert len(times) < 20 + 4000 * pace / 0.2
    else:
        assert min(gaps) >= 0.99 * min(pace, 0.2)


def test_ranks_meet_within_a_second_where_steps_become_four_times_slower(clock):
    times = meetings(clock, [0.004] * 1000 + [0.0155] * 1000)
    assert max(after - before for before, after in itertools.pairwise(times)) <= 1.0


def test_ranks_of_different_speed_meet_after_the_same_steps_and_get_the_largest_flag(monkeypatch):
    """Each rank has a clock of its own; the slowest rank decides."""
    now, met, asked = [0.0, 0.0], [[], []], {}

    def run(rank, pace, others_pace):
        monkeypatch.setattr(agreement.time, "monotonic", lambda: now[rank])

        def largest(values):
            met[rank].append(step)
            *flags, own = values
            return [
                max(*flags, 15.0 if step >= 30 and rank == 0 else 0.0),
                max(own, own / pace * others_pace),
            ]

        ranks = Agreement(largest)
        for step in range(60):
            now[rank] += pace
            flags = ranks.after_step(15.0 if step >= 30 and rank == 1 else 0.0)
            if flags[0]:
                asked.setdefault(rank, step)

    run(0, 0.01, 0.03)
    run(1, 0.03, 0.01)
    assert met[0] == met[1] and len(met[0]) < 20
    assert asked[0] == asked[1] and 30 <= asked[0] < 39


def test_a_single_process_gets_its_own_flags(clock):
    alone = Agreement(lambda flags: flags)
    assert alone.after_step(2.0, 0.0) == [2.0, 0.0]
