"""Images that go bad after they were prepared: named, and replaced by others of their class."""

import errno
import os
import random
import re
import resource
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dali.pipeline import graph
from alexnet_dali.pipeline.crops import TenCrops
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX, Feeder
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.plan import OneStep
from alexnet_dali.pipeline.reading import archive_process, verify
from alexnet_dali.pipeline.reading.reader import Archives, Reader
from alexnet_dali.pipeline.reading.replacements import replacement, stop
from alexnet_dali.pipeline.system.faults import ResourceError
from alexnet_dali.tools import prep_imagenet
from tests.damage import DAMAGE, damage, reason
from tests.feeding import evaluation_plan, plain, training_plan
from tests.images import prepare, smooth_image

PLAIN = plain(80)


@pytest.fixture
def images(dataset, tmp_path):
    """A copy of the training images, whose files may be damaged."""
    shutil.copytree(dataset.train.root, tmp_path / "copy")
    return replace(dataset.train, root=str(tmp_path / "copy"))


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    options = ("--resize", "96", "--shards")
    return Dataset.open(prepare(root, {"a": 20, "b": 22}, {"a": 2, "b": 2}, *options)).train


@pytest.fixture
def archived(in_shards, tmp_path):
    """A copy of images in archives."""
    shutil.copytree(in_shards.root, tmp_path / "archives")
    return replace(in_shards, root=str(tmp_path / "archives"))


def plan(images, **options):
    return training_plan(images, **{"num_steps": 8, **options})


def shown(images, seen, **options):
    """Pixels and labels of every step, in one array each."""
    feeder = Feeder(images, plan(images), PLAIN, num_threads=2, on_bad_image=seen, **options)
    try:
        return [(batch.images.numpy(), batch.labels.numpy()) for batch in feeder]
    finally:
        feeder.close()


def check(images, sound, bad, said):
    """That `bad` images are named, with what is `said`, and replaced; other rows are as before."""
    seen = []
    found = shown(images, seen.append)
    assert {one.path for one in seen} == {images.path(int(index)) for index in bad}
    for one in seen:
        assert re.search(said, one.why), one.why
    for step, (pixels, labels) in enumerate(found):
        indices = plan(images).samples(step, 0, 1).indices
        missing = np.isin(indices, bad)
        np.testing.assert_array_equal(pixels[~missing], sound[step][0][~missing])
        np.testing.assert_array_equal(labels, sound[step][1])  # the class stays
        told = {one.number: one.replacement for one in seen if one.step == step}
        assert sorted(told) == sorted(indices[missing])
    return found


def check_that_others_stay(images, sound, bad):
    seen = []
    for step, (pixels, labels) in enumerate(shown(images, seen.append)):
        others = ~np.isin(plan(images).samples(step, 0, 1).indices, bad)
        np.testing.assert_array_equal(pixels[others], sound[step][0][others])
        np.testing.assert_array_equal(labels, sound[step][1])
    assert seen and all(one.number in bad and "it can't be decoded" in one.why for one in seen)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_image_is_named_and_another_of_its_class_is_shown(dataset, images, kind):
    bad = plan(images).samples(0, 0, 1).indices[:3]
    for index in bad:
        damage(images, int(index), kind)
    sound = shown(dataset.train, stop)
    found = check(images, sound, bad, reason(kind))
    halves = [shown(images, [].append, shard=shard, num_shards=2) for shard in range(2)]
    later = shown(images, [].append, first_step=3)
    for step, (pixels, _) in enumerate(found):
        both = np.concatenate([half[step][0] for half in halves])
        np.testing.assert_array_equal(pixels, both)
        if step >= 3:
            np.testing.assert_array_equal(pixels, later[step - 3][0])
    with pytest.raises(DatasetError, match="can't be used any more"):
        shown(images, stop)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "gone"])
def test_a_bad_image_in_an_archive_is_named_and_replaced(in_shards, archived, kind):
    """It keeps its place, so only what it holds can tell."""
    bad = plan(archived).samples(0, 0, 1).indices[:3]
    for index in bad:
        damage(archived, int(index), kind)
    if kind in ("stump", "two EXIF blocks"):  # cut short: noticed where a crop reaches the end
        check_that_others_stay(archived, shown(in_shards, stop), bad)
        return
    said = {
        "header alone": "DALI finds no image in it",
        "smaller": "pixels, and was",
        "smaller, of the right length": "pixels, and was",
        "larger": "pixels, and was",
    }
    check(archived, shown(in_shards, stop), bad, said.get(kind, "not an image, or cut short"))


def test_all_kinds_at_once_are_told_apart(dataset, images):
    kinds = list(DAMAGE)
    chosen = plan(images).samples(0, 0, 1).indices[: len(kinds) - 2].tolist()
    chosen += plan(images).samples(1, 0, 1).indices[:2].tolist()
    for index, kind in zip(chosen, kinds, strict=True):
        damage(images, index, kind)
    seen = []
    shown(images, seen.append)
    told = {one.number: one.why for one in seen}
    assert set(told) == set(chosen)
    for index, kind in zip(chosen, kinds):
        assert re.search(reason(kind), told[index]), (kind, told[index])


def test_replacements_are_crops_of_the_images_that_are_named(images):
    bad = int(plan(images).samples(0, 0, 1).indices[5])
    damage(images, bad, "text")
    seen = []
    found = shown(images, seen.append)[0][0][5]
    other = next(i for i in range(len(images)) if images.path(i) == seen[0].replacement)
    assert other != bad and images.labels[other] == images.labels[bad]
    of_another = plan(images).samples(
        0, 0, 1, lambda indices: np.where(indices == bad, other, indices)
    )
    (batch,) = Feeder(images, OneStep(of_another), PLAIN)
    np.testing.assert_array_equal(found, batch.images[5].numpy())


def test_a_bad_image_of_ten_views_is_told_of_once(images):
    ten = training_plan(images, TenCrops(80, 96), num_steps=1)
    bad = int(ten.samples(0, 0, 1).indices[50])
    damage(images, bad, "text")
    seen = []
    with closing(Feeder(images, ten, PLAIN, on_bad_image=seen.append)) as feeder:
        assert len(next(iter(feeder)).labels) == 120
    assert [one.number for one in seen] == [bad]


def test_replacements_are_the_same_on_any_number_of_ranks_and_after_a_resume(images):
    for index in range(0, len(images), 4):
        damage(images, index, list(DAMAGE)[index % len(DAMAGE)])
    whole = shown(images, [].append)
    halves = [shown(images, [].append, shard=shard, num_shards=2) for shard in range(2)]
    for step, (pixels, labels) in enumerate(whole):
        np.testing.assert_array_equal(pixels, np.concatenate([half[step][0] for half in halves]))
        np.testing.assert_array_equal(labels, np.concatenate([half[step][1] for half in halves]))
    for (pixels, _), (again, _) in zip(whole[5:], shown(images, [].append, first_step=5)):
        np.testing.assert_array_equal(pixels, again)


def test_where_a_class_is_gone_another_class_is_shown_with_its_own_label(images):
    lost = np.flatnonzero(images.labels == 0)
    for index in lost:
        damage(images, int(index), "gone")
    seen = []
    for step, (_, labels) in enumerate(shown(images, seen.append)):
        assert 0 not in labels
        rows = list(plan(images).samples(step, 0, 1).indices)
        for one in seen:
            if one.step == step:
                other = next(i for i in range(len(images)) if images.path(i) == one.replacement)
                assert labels[rows.index(one.number)] == images.labels[other]


@pytest.mark.parametrize("pad", [True, False])
def test_an_evaluation_does_not_count_what_it_could_not_show(images, pad):
    damage(images, 4, "stump")
    seen = []
    feeder = Feeder(
        images,
        evaluation_plan(images, 96, 12),
        plain(96),
        on_bad_image=seen.append,
        count_replaced=False,
        pad=pad,
    )
    batches = list(feeder)
    assert all(len(batch.images) == len(batch.labels) for batch in batches)
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    expected = images.labels.copy()
    expected[4] = IGNORE_INDEX
    if pad:
        np.testing.assert_array_equal(labels[: len(images)], expected)
        assert (labels[len(images) :] == IGNORE_INDEX).all()
    else:
        np.testing.assert_array_equal(labels, np.delete(expected, 4))
    assert [one.path for one in seen] == [images.path(4)]


def test_where_no_image_is_left_one_message_says_so(images):
    for index in range(len(images)):
        damage(images, index, "gone")
    with pytest.raises(DatasetError, match="nor can any other image"):
        shown(images, [].append)


@pytest.mark.parametrize("form", ["images", "archived"])
def test_where_their_folder_is_gone_no_image_is_blamed(form, request):
    """A disk was unmounted, or its server is gone. To try a million images would take hours."""
    images, seen = request.getfixturevalue(form), []
    feeder = Feeder(images, plan(images), PLAIN, on_bad_image=seen.append)
    feeder.next()
    root = Path(images.root)
    root.rename(root.with_name("away"))
    if form == "archived":
        feeder.close()  # what is open can still be read
        feeder = Feeder(images, plan(images), PLAIN, on_bad_image=seen.append)
    with pytest.raises(FileNotFoundError, match=images.root):
        list(feeder)
    assert not seen and not feeder._requests.faults


def test_images_of_shards_that_are_cut_while_they_are_read_are_named_with_the_shard(archived):
    shard = Path(archived.archive(0)[0])
    whole, seen = shown(archived, stop), []
    feeder = Feeder(archived, plan(archived), PLAIN, num_threads=2, on_bad_image=seen.append)
    np.testing.assert_array_equal(feeder.next().images.numpy(), whole[0][0])
    end = int(np.sort(archived.spans[:, 1])[20])
    with open(shard, "r+b") as file:
        file.truncate(end + 10)
    later = list(feeder)
    assert len(later) == 7 and seen
    for one in seen:
        assert one.why.startswith(f"{shard} ends at byte {end + 10}; the image needs")
    for step, batch in enumerate(later, 1):
        left = archived.spans[plan(archived).samples(step, 0, 1).indices, 1] < end
        np.testing.assert_array_equal(batch.images.numpy()[left], whole[step][0][left])


def test_a_shard_that_is_removed_is_read_on_while_it_is_open_and_then_named(archived):
    shard, whole = Path(archived.archive(0)[0]), shown(archived, stop)
    feeder = Feeder(archived, plan(archived), PLAIN, num_threads=2)
    feeder.next()
    shard.rename(shard.with_name("away.tar"))
    for (pixels, _), batch in zip(whole[1:], feeder, strict=True):
        np.testing.assert_array_equal(pixels, batch.images.numpy())
    with pytest.raises(DatasetError, match="nor can any other image"):
        shown(archived, stop)
    assert "No such file" in verify.why_bad(archived, 3)


def test_damage_that_only_the_decoder_sees_is_found_there(tmp_path):
    """A PNG file whose header is right, and whose pixels can't be unpacked."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(6):
            smooth_image(rng, 100, 120).save(tmp_path / f"train/{name}/{number}.png")
    arguments = ["--train", tmp_path / "train", "--hold-out", "0.2", "--out", tmp_path / "out"]
    prep_imagenet.main(list(map(str, arguments)))
    images = Dataset.open(tmp_path / "out").train
    one_batch = plan(images, batch_size=len(images), num_steps=3)
    indices = one_batch.samples(0, 0, 1).indices
    first = int(indices[0])
    its_replacement = replacement(images, first, 0, 0, lambda index: True)
    bad = [Path(images.path(index)) for index in {first, its_replacement, int(indices[-1])}]
    for path in bad:
        content = bytearray(path.read_bytes())
        begin, end = content.index(b"IDAT") + 50, content.index(b"IEND") - 20
        content[begin:end] = random.Random(0).randbytes(end - begin)
        path.write_bytes(content)
    seen = []
    feeder = Feeder(images, one_batch, PLAIN, on_bad_image=seen.append, num_threads=1)
    assert len(list(feeder)) == 3
    assert {one.path for one in seen} == set(map(str, bad))
    assert all("it can't be decoded" in one.why for one in seen)


def pngs_with_exif(folder):
    """Prepared PNG files of two classes."""
    exif = Image.Exif()
    exif[271] = "Maker"
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / "train" / name).mkdir(parents=True)
        for number in range(8):
            smooth_image(rng, 100, 120).save(folder / f"train/{name}/{number}.png", exif=exif)
    arguments = ["--train", folder / "train", "--hold-out", "0.2", "--out", folder / "out"]
    prep_imagenet.main(list(map(str, arguments)))
    return Dataset.open(folder / "out").train


def test_damage_that_ends_in_an_unknown_status_is_the_files_at_every_rerun(tmp_path):
    """Half of a file is zeros after a crash; nvImageCodec's status is no verdict on an image."""
    images = pngs_with_exif(tmp_path)
    bad = int(plan(images, batch_size=4).samples(0, 0, 1).indices[0])
    sound = shown(images, stop)
    path = Path(images.path(bad))
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    for _ in range(2):
        check(images, sound, [bad], "DALI finds no image in it .*#17")


@pytest.mark.parametrize("machine", ["works", "fails"])
def test_the_machine_is_blamed_only_if_it_fails_on_a_sound_image_too(
    tmp_path, machine, monkeypatch
):
    """What DALI says of the file is taken for words that nobody knows."""
    images = pngs_with_exif(tmp_path)
    one_batch = plan(images, batch_size=len(images), num_steps=1)
    bad = int(one_batch.samples(0, 0, 1).indices[1])
    content = bytearray(Path(images.path(bad)).read_bytes())
    begin, end = content.index(b"IDAT") + 50, content.index(b"IEND") - 20
    content[begin:end] = random.Random(0).randbytes(end - begin)
    Path(images.path(bad)).write_bytes(content)
    monkeypatch.setattr("alexnet_dali.pipeline.feeder.of_an_image", lambda error: False)
    if machine == "fails":
        damaged = np.frombuffer(bytes(content), np.uint8)
        monkeypatch.setattr("alexnet_dali.pipeline.feeder.sound_image", lambda *size: damaged)
    seen = []
    feeder = Feeder(images, one_batch, PLAIN, on_bad_image=seen.append)
    if machine == "works":
        list(feeder)
        assert [one.number for one in seen] == [bad] and "it can't be decoded" in seen[0].why
        return
    with pytest.raises(ResourceError, match="DALI's decoder failed"):
        list(feeder)
    assert not seen and not feeder._requests.faults


@pytest.mark.parametrize("kind", ["text", "larger", "gone", "empty"])
def test_a_file_that_changes_once_it_is_read_changes_no_pixels(images, kind, monkeypatch):
    """What is decoded are the bytes that were looked at."""
    whole, read = shown(images, stop), Reader.read

    def then_damaged(self, indices):
        encoded = read(self, indices)
        for index in set(indices.tolist()):
            path = Path(images.path(index))
            kept = path.read_bytes()
            damage(images, index, kind)
            changed.append((path, kept))
        return encoded

    changed = []
    with monkeypatch.context() as planted:
        planted.setattr(Reader, "read", then_damaged)
        feeder = Feeder(images, plan(images, num_steps=1), PLAIN, num_threads=2)
        (batch,) = feeder
    assert len(changed) >= 12
    np.testing.assert_array_equal(batch.images.numpy(), whole[0][0])


MACHINE = [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM]


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
def test_a_fault_of_the_machine_blames_no_image_of_an_archive(archived, number, monkeypatch):
    """A process that reads archives has it at one image of a batch."""
    seen = []
    feeder = Feeder(archived, plan(archived), PLAIN, on_bad_image=seen.append)
    feeder.next()
    ask = Archives._ask

    def fail(self, requests):
        first, second, *others = ask(self, requests)
        second = second.copy()
        second[1] = -number
        return [first, second, *others]

    monkeypatch.setattr(Archives, "_ask", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        list(feeder)
    assert not seen and not feeder._requests.faults


def test_a_reader_of_archives_that_is_killed_blames_no_image(archived):
    seen = []
    feeder = Feeder(archived, plan(archived), PLAIN, on_bad_image=seen.append)
    feeder.next()
    feeder._requests._reader._archives._processes[2].kill()
    with pytest.raises(ResourceError, match="a process that reads archives has ended"):
        list(feeder)
    # What the others have answered is not taken for an answer to another request.
    with pytest.raises(ResourceError, match="a process that reads archives has ended"):
        feeder._requests._reader.read(np.array([0]))
    assert not seen and not feeder._requests.faults


@pytest.mark.parametrize("call", ["open", "preadv"])
def test_the_process_that_reads_archives_tells_what_the_system_says(archived, call, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EMFILE, "too many")

    name, row = archived.archive(0)[0].encode(), bytearray(10)
    with monkeypatch.context() as planted:
        planted.setattr(os, call, fail)
        found = archive_process._Archives().read(name, memoryview(row), 0)
    assert found == -errno.EMFILE
    assert archive_process._Archives().read(name, memoryview(row), 0) == 10


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
def test_a_fault_of_the_machine_blames_no_file(images, number, monkeypatch):
    """The file of one image is bad; why can't be told while the machine fails."""
    seen = []
    damage(images, int(plan(images).samples(4, 0, 1).indices[0]), "noise of the right length")
    feeder = Feeder(images, plan(images), PLAIN, on_bad_image=seen.append)

    def fail(self, index):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("alexnet_dali.pipeline.image_list.ImageList.content", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        list(feeder)
    assert not seen and not feeder._requests.faults


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_a_lack_of_memory_in_the_reader_blames_no_image(images, error, monkeypatch):
    def fail(*arguments):
        raise error

    feeder = Feeder(images, plan(images), PLAIN)
    feeder.next()
    monkeypatch.setattr(graph, "read", fail)
    with pytest.raises((ResourceError, MemoryError)):
        list(feeder)
    assert not feeder._requests.faults


@pytest.mark.parametrize("times", [1, 3, 30])
def test_a_reader_that_fails_for_some_time_blames_no_image(images, times, monkeypatch):
    """Too many files are open for a moment: DALI says so, and then all is well again."""
    left, read = [times], graph.read

    def fail_at_first(reader, *files):
        if left[0]:
            left[0] -= 1
            raise RuntimeError(TOO_MANY)
        return read(reader, *files)

    feeder = Feeder(images, plan(images), PLAIN)
    feeder.next()
    monkeypatch.setattr(graph, "read", fail_at_first)
    with pytest.raises(ResourceError, match="Too many open files"):
        list(feeder)
    assert not feeder._requests.faults


TOO_MANY = """Critical error in pipeline:
Error in CPU operator `nvidia.dali.fn.io.file.read`,
encountered:

[/opt/dali/dali/util/std_file.cc:29] Could not open file a.jpg: Too many open files
Current pipeline object is no longer valid."""


def test_too_many_open_files_blame_no_image(images):
    """What is open stays so; nothing more can be opened, by any thread."""
    seen = []
    feeder = Feeder(images, plan(images, num_steps=40), PLAIN, on_bad_image=seen.append)
    feeder.next()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            list(feeder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not seen and not feeder._requests.faults


def test_a_file_that_is_well_again_is_not_called_so_many_pixels_large(images, monkeypatch):
    """It was shorter while the reader read it, such as while it was being copied."""
    bad = int(plan(images).samples(0, 0, 1).indices[0])
    content = Path(images.path(bad)).read_bytes()
    damage(images, bad, "stump")
    right = verify.why_bad

    def restored(some, index):
        Path(images.path(bad)).write_bytes(content)
        return right(some, index)

    monkeypatch.setattr("alexnet_dali.pipeline.reading.reader.why_bad", restored)
    seen = []
    feeder = Feeder(images, plan(images, num_steps=1), PLAIN, on_bad_image=seen.append)
    list(feeder)
    assert all("0x0" not in one.why for one in seen)
