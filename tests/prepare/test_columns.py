"""Names, places and findings in arrays hold what lists of them would."""

import os
import pickle
import random

import numpy as np
import pytest

from alexnet_dali.pipeline.prepare.archives.archive_member import ArchiveMember
from alexnet_dali.pipeline.prepare.columns import Names, Places
from alexnet_dali.pipeline.prepare.records import Findings

NAMES = ["a/1.jpg", "naïve/2 3.jpg", "", os.fsdecode(b"b/\xff\xfe.jpg"), "line\nbreak", "a/1.jpg"]


def places(count, seed=0):
    rng = random.Random(seed)
    return [
        ArchiveMember(
            rng.choice(["b.tar", "ä.zip", "a.tar"]),
            rng.randrange(4),
            rng.randrange(3),
            rng.choice(["stored", "deflate", "parquet"]),
            rng.choice([None, 0, 2**32 - 1]),
        )
        for _ in range(count)
    ]


def test_names_come_out_as_they_went_in():
    names = Names.of(NAMES)
    assert list(names) == NAMES and len(names) == 6 and names[-2] == "line\nbreak"
    some = names.take([3, 1, 1])
    assert list(some) == [NAMES[3], NAMES[1], NAMES[1]]
    assert list(pickle.loads(pickle.dumps(some))) == list(some)
    assert list(some.take([])) == [] == list(Names.of([]))


def test_a_task_does_not_take_all_names_along():
    many = Names.of(f"class/{number:07d}.jpg" for number in range(10_000))
    assert len(pickle.dumps(many.take(range(64)))) < 64 * 40


def test_places_come_out_as_they_went_in():
    expected = places(50)
    found = Places.of(expected)
    assert list(found) == expected and len(found) == 50
    assert list(pickle.loads(pickle.dumps(found.take([7, 3])))) == [expected[7], expected[3]]
    assert found.spans().tolist() == [
        [len(os.fsencode(place.archive)), place.offset, place.size] for place in expected
    ]


def test_files_are_read_as_they_lie_in_their_archives():
    expected = places(200)
    key = lambda i: expected[i][:3]  # noqa: E731 - archive, offset, size
    assert Places.of(expected).reading_order().tolist() == sorted(range(200), key=key)


@pytest.mark.parametrize("compression, unpacked", [("stored", False), ("deflate", True)])
def test_one_packed_file_counts(compression, unpacked):
    found = Places.of([ArchiveMember("a.zip", 0, 1), ArchiveMember("a.zip", 1, 1, compression)])
    assert found.must_be_unpacked() is unpacked


def test_a_size_that_no_archive_can_have_is_no_overflow():
    assert Places.of([ArchiveMember("a.zip", 0, 2**64)])[0].size == 2**63 - 1


def found(sizes, remarks):
    findings = Findings.none(len(sizes))
    findings.rows["size"][:, 0] = sizes
    findings.remarks.update(remarks)
    return findings


def test_findings_follow_each_other_and_get_the_order_of_the_files():
    both = found([5, 0], {1: "cut"}).followed_by(found([0, 6, 7], {0: "text", 2: "PNG"}))
    assert both.reasons() == {1: "cut", 2: "text"} and both.oddities() == {4: "PNG"}
    order = np.array([3, 0, 4, 1, 2])  # the first one found is file 3
    ordered = both.in_order(order)
    assert ordered.rows["size"][:, 0].tolist() == [0, 6, 7, 5, 0]
    assert ordered.reasons() == {0: "cut", 4: "text"} and ordered.oddities() == {2: "PNG"}
    assert list(ordered.reasons()) == [0, 4]
