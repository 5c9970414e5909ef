"""What training loops of other projects rely on, without them: `make clients` runs those.

Batches, ranks, samplers, epochs, states, copies and forks of a loader.
"""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from alexnet_dali.pipeline import (
    CentreCrop,
    DataLoader,
    Pixels,
    RandomCrop,
    RandomResizedCrop,
    TenCrops,
)
from alexnet_dali.pipeline.feeder import IGNORE_INDEX
from tests.images import prepare
from tests.pipeline.test_data_loader import WHY_NOT, digest, in_a_child

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """42 training and 7 validation images of two classes."""
    return prepare(tmp_path_factory.mktemp("loops"), {"a": 21, "b": 21}, {"a": 3, "b": 4})


def loader(folder, split="train", **options):
    options = {"global_batch_size": 8, "crops": CentreCrop(32, 40)} | options
    return DataLoader(folder, split, pixels=Pixels(dtype="uint8"), **options)


def shown(batches):
    """The images of an epoch, as a number each."""
    return [number for images, *_ in batches for number in digest(images)]


def epochs(folder, count, **options):
    """What `count` epochs show that nothing disturbs."""
    batches = loader(folder, **options)
    return [shown(batches) for _ in range(count)]


@pytest.fixture
def ranks(monkeypatch):
    """Makes torch.distributed say that this process is a rank of several; None: that it is not."""

    def join(rank, world_size):
        monkeypatch.setattr(dist, "is_initialized", lambda: rank is not None)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: world_size)

    return join


@pytest.mark.parametrize("options", [{}, {"with_index": True}])
def test_a_batch_is_a_tuple_that_can_be_made_again(folder, options):
    """fastai and skorch rebuild it from a list of its parts."""
    batch = next(iter(loader(folder, **options)))
    assert type(batch) is tuple and len(batch) == 2 + len(options)
    assert all(map(torch.equal, type(batch)(list(batch)), batch))


def test_indices_name_the_files_whose_labels_and_pixels_a_batch_has(folder):
    batches = loader(folder, with_index=True, crops=TenCrops(32, 40))
    plain = loader(folder, order=lambda rng, labels: np.arange(42), global_batch_size=42)
    ((own, _),) = plain
    for images, labels, indices in batches:
        assert labels.equal(torch.from_numpy(batches.dataset.labels)[indices])
        assert [Path(batches.path(index)).parent.name for index in indices] == [
            "ab"[label] for label in labels
        ]
        assert indices[::10].repeat_interleave(10).equal(indices)
        centres = images.unflatten(0, (-1, 10))[:, 4]  # of five crops, as they are
        assert centres.equal(own[indices[::10]])
    with pytest.raises(IndexError, match="index is -1; expected 0 to 41"):
        batches.path(IGNORE_INDEX)


def test_rows_that_do_not_count_have_no_index(folder):
    last = list(loader(folder, "val", global_batch_size=4, pad=True, with_index=True))[-1]
    assert last[1].tolist() == [1, 1, 1, IGNORE_INDEX]
    assert last[2].tolist() == [4, 5, 6, IGNORE_INDEX]
    last = list(loader(folder, "val", global_batch_size=4, with_index=True))[-1]
    assert last[2].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("size", "world_size", "counts", "again"),
    [(4, 2, [2, 2], [0]), (4, 4, [1, 1], [0]), (6, 3, [2, 1], [0, 1]), (4, 1, [4, 3], [])],
)
def test_a_last_batch_filled_up_evenly_has_as_many_rows_on_each_rank(
    folder, size, world_size, counts, again
):
    """7 images; where ranks do not divide them, the first ones come again with their labels."""
    ranks = [
        list(
            loader(
                folder,
                "val",
                global_batch_size=size,
                pad="evenly",
                with_index=True,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    steps = [[torch.cat(parts) for parts in zip(*step)] for step in zip(*ranks)]
    assert [[len(labels) for _, labels, _ in rank] for rank in ranks] == [counts] * world_size
    indices = torch.cat([indices for _, _, indices in steps])
    assert indices.tolist() == [*range(7), *again]
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])[indices]
    assert torch.cat([labels for _, labels, _ in steps]).equal(labels)
    (alone,) = loader(folder, "val", global_batch_size=7)
    assert torch.cat([images for images, *_ in steps]).equal(alone[0][indices])


def test_ranks_are_found_when_a_loop_begins(folder, ranks):
    """A loader is made before a launcher's ranks join: Lightning's, mp.spawn."""
    batches = [loader(folder) for _ in range(2)]
    whole = epochs(folder, 1)[0]
    halves = []
    for rank in range(2):
        ranks(rank, 2)
        assert (batches[rank].rank, batches[rank].batch_size) == (rank, 4)
        halves.append(shown(batches[rank]))
    together = [np.split(np.array(half), 5) for half in halves]
    assert np.concatenate([row for step in zip(*together) for row in step]).tolist() == whole


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_ranks_that_have_not_joined_do_not_read_the_same_data(folder, monkeypatch, name):
    """torchrun, mp.spawn with its variables set, srun, mpirun."""
    monkeypatch.setenv(name, "2")
    batches = loader(folder)
    with pytest.raises(
        ValueError, match=rf"{name} is 2, .* first call torch\.distributed\.init_process_group"
    ):
        iter(batches)
    assert len(list(loader(folder, rank=0, world_size=1))) == 5
    monkeypatch.setenv(name, "1")
    assert len(list(batches)) == 5


def test_a_rank_that_changes_or_is_anothers_is_an_error(folder, ranks):
    batches = loader(folder)
    next(iter(batches))
    ranks(1, 2)
    with pytest.raises(ValueError, match=r"has read as rank 0 of 1, but .* now rank 1 of 2"):
        iter(batches)
    with pytest.raises(ValueError, match=r"rank is 0 of 2, but .* as rank 1;"):
        iter(loader(folder, rank=0, world_size=2))
    assert len(list(loader(folder, rank=0, world_size=1))) == 5  # all images on every rank
    ranks(0, 3)
    with pytest.raises(ValueError, match="images of all 3 ranks together"):
        iter(loader(folder))


def test_a_sampler_goes_forward_to_an_epoch(folder):
    """As torch's DistributedSampler is told; a fresh process begins where training stopped."""
    expected = epochs(folder, 4)
    batches = loader(folder)
    for epoch in (0, 2, 3):
        batches.sampler.set_epoch(epoch)
        assert batches.epoch == epoch and shown(batches) == expected[epoch]


def test_a_sampler_leaves_a_loader_that_is_in_mid_epoch(folder):
    """Lightning loads the loader's state, and then sets the epoch."""
    expected = epochs(folder, 2)
    batches = loader(folder)
    batches.load_state_dict(batches.state_dict() | {"step": 7})
    batches.sampler.set_epoch(1)
    assert shown(batches) == expected[1][16:]


def test_a_sampler_never_goes_back(folder):
    expected = epochs(folder, 3)
    batches = loader(folder)
    assert [shown(batches) for _ in range(2)] == expected[:2]
    with pytest.warns(UserWarning, match=r"set_epoch\(0\): this loader goes on in epoch 2"):
        batches.sampler.set_epoch(0)
    assert shown(batches) == expected[2]


@pytest.mark.filterwarnings("error")
def test_validation_does_not_depend_on_epochs(folder):
    """Lightning tries a few batches first, and then sets epoch 0."""
    batches = loader(folder, "val", global_batch_size=4)
    first = next(iter(batches))
    list(batches)
    batches.sampler.set_epoch(0)
    assert next(iter(batches))[0].equal(first[0])


def test_an_epoch_can_be_set(folder):
    expected = epochs(folder, 4)
    batches = loader(folder)
    for epoch in (2, 3, 0):
        batches.epoch = epoch
        assert shown(batches) == expected[epoch]
    next(iter(batches))
    batches.epoch = 1
    assert (batches.step, batches.epoch) == (5, 1)
    batches.step = 7
    assert shown(batches) == expected[1][16:]
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match=f"epoch is {wrong}; expected a number from 0"):
            batches.epoch = wrong


def test_an_iterator_counts_from_when_it_is_made(folder):
    """Lightning makes it, saves, and then asks for a batch."""
    expected = epochs(folder, 2)
    batches = loader(folder)
    for _ in batches:
        if batches.step == 3:
            break
    iterator = iter(batches)
    state = batches.state_dict()
    assert state["step"] == batches.step == 5
    other = loader(folder)
    other.load_state_dict(state)
    assert shown(other) == shown(iterator) == expected[1]


@pytest.mark.parametrize("way", ["sampler", "state"])
def test_an_iterator_that_was_not_asked_yet_goes_where_the_loader_is_moved(folder, way):
    """Lightning makes the first one before it sets the epoch; torch's follows, too."""
    expected = epochs(folder, 2)
    batches = loader(folder)
    iterator = iter(batches)
    if way == "sampler":
        batches.sampler.set_epoch(1)
    else:
        batches.load_state_dict(batches.state_dict() | {"step": 5})
    assert shown(iterator) == expected[1] and batches.step == 10


def test_frameworks_see_what_a_loader_is(folder):
    batches = loader(folder, rank=1, world_size=2)
    assert (batches.batch_size, batches.drop_last, batches.rank) == (4, True, 1)
    assert not loader(folder, "val").drop_last
    text = repr(batches)
    assert text.startswith("DataLoader(42 images, step=0, ") and "crops=" in text


def test_the_docs_list_what_a_state_compares(folder):
    text = (ROOT / "docs/pipeline.md").read_text()
    listed = re.search(r"It compares ([^.]+)\.", text)
    assert listed
    names = re.findall(r"`(\w+)`", listed[1])
    assert sorted(names) == sorted(set(loader(folder).state_dict()) - {"step"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixels", Pixels(std=(1, 1, 1))),
        ("crops", RandomResizedCrop(32, views=2)),
        ("lighting_epochs", 2),
        ("seed", 1),
        ("global_batch_size", 4),
    ],
)
def test_another_option_does_not_fit_a_state(folder, name, value):
    options = {"global_batch_size": 8, "pixels": Pixels(lighting_std=0.1)}
    state = DataLoader(folder, **options).state_dict()
    with pytest.raises(ValueError, match=f"{name} was"):
        DataLoader(folder, **options | {name: value}).load_state_dict(state)


@pytest.mark.parametrize("make", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])
def test_a_copy_goes_on_where_the_loader_was(folder, make):
    """mp.spawn and Ray send a loader to other processes."""
    expected = epochs(folder, 3)
    batches = loader(folder)
    assert shown(make(batches)) == expected[0]
    list(batches)
    assert shown(make(batches)) == expected[1]
    state = batches.state_dict() | {"step": 12}
    batches.load_state_dict(state)
    assert shown(make(batches)) == shown(batches) == expected[2][16:]


def test_an_order_can_not_change_the_labels_of_a_copy(folder):
    batches = pickle.loads(pickle.dumps(loader(folder, order=spoiling)))
    with pytest.raises(ValueError, match="read-only"):
        [list(batches) for _ in range(2)]


def spoiling(rng, labels):
    if rng.bit_generator.state["state"]["key"][1]:  # in the second epoch
        labels[0] = 0
    return np.arange(len(labels))


def test_a_loader_that_was_only_made_before_a_fork_works_in_the_child(folder):
    """notebook_launcher forks."""
    expected = epochs(folder, 1)[0]
    batches = loader(folder)
    said = in_a_child(lambda: shown(batches) == expected)
    assert said == "True"
    list(batches)
    assert in_a_child(lambda: shown(batches)).startswith(WHY_NOT)


@pytest.mark.parametrize("crops", [RandomResizedCrop(32, views=2), RandomCrop(32, 40, views=2)])
def test_two_views_are_other_crops_of_one_image(folder, crops):
    batches = loader(folder, crops=crops, with_index=True)
    every = list(batches)
    for images, labels, indices in every:
        assert images.shape == (16, 3, 32, 32)
        assert indices[0::2].equal(indices[1::2]) and labels[0::2].equal(labels[1::2])
        one, other = images[0::2], images[1::2]
        assert (one != other).flatten(1).any(1).all()
    boxes, mirrored = batches.plan.samples(0, 0, 1)[1:3]
    plain = RandomResizedCrop(32) if isinstance(crops, RandomResizedCrop) else RandomCrop(32, 40)
    # A view has the crop that a plain loader draws at its place among all views.
    from alexnet_dali.pipeline.draws import Draws

    sizes = batches.dataset.sizes[every[0][2].numpy()]
    own_boxes, own_mirrored = plain.draw(Draws(0, 0, np.arange(16)), sizes)
    assert (boxes == own_boxes).all() and (mirrored == own_mirrored).all()
    assert len(np.unique(boxes, axis=0)) == 16 and 0 < mirrored.sum() < 16


def test_two_views_resume_on_two_ranks(folder):
    options = {"crops": RandomResizedCrop(32, views=2), "with_index": True}
    whole = list(loader(folder, **options))
    halves = [loader(folder, rank=rank, world_size=2, **options) for rank in range(2)]
    for half in halves:
        half.load_state_dict(half.state_dict() | {"step": 2})
    for parts, expected in zip(zip(*halves), whole[2:], strict=True):
        for own, one in zip(zip(*parts), expected, strict=True):
            assert torch.cat(own).equal(one)


def test_views_are_counted(folder):
    with pytest.raises(ValueError, match="views is 0; expected 1 or more"):
        RandomResizedCrop(views=0)
    with pytest.raises(ValueError, match=r"views is 1\.5"):
        RandomCrop(views=1.5)
    with pytest.raises(TypeError, match="views"):
        CentreCrop(views=2)
    with pytest.raises(ValueError, match='pad is 1; expected False, True or "evenly"'):
        loader(folder, "val", pad=1)
