"""Stored images, loose or in shards, against the originals and as other readers see them."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from alexnet_dali.pipeline import geometry
from alexnet_dali.pipeline.crops import RandomCrop
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare import examine, journal, store
from alexnet_dali.pipeline.prepare.journal import Journal
from alexnet_dali.pipeline.prepare.records import ROW
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.tools import prep_imagenet
from tests.feeding import plain, shown, training_plan
from tests.images import write_class_folders
from tests.processes import Started

SIDE, CROP = 48, 40


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_class_folders(folder, {"cat": 20, "dog": 15}, sides=(50, 140))
    return folder


def prep(originals, out, *more):
    arguments = ["--train", originals, "--hold-out", "0.2", "--out", out, *more]
    prep_imagenet.main([str(argument) for argument in arguments])
    return Dataset.open(out)


@pytest.fixture(scope="module")
def prepared(originals, tmp_path_factory):
    """The same images in three forms: in place, as loose files, and in shards."""
    folder = tmp_path_factory.mktemp("prepared")
    small = ["--resize", SIDE, "--quality", "98"]
    return {
        "originals": prep(originals, folder / "originals"),
        "loose": prep(originals, folder / "loose", *small),
        "shards": prep(originals, folder / "shards", *small, "--shards"),
    }


def plan_for(images):
    return training_plan(images, RandomCrop(CROP, SIDE), batch_size=4, seed=1)


def load(images, first_step=0, shard=0, num_shards=1):
    options = {"shard": shard, "num_shards": num_shards, "first_step": first_step}
    return shown(images, plan_for(images), plain(CROP), **options)


def test_the_store_keeps_the_order_and_nearly_the_pixels_of_the_originals(prepared):
    batches = {name: load(dataset.train) for name, dataset in prepared.items()}
    for one, loose, shards in zip(*batches.values(), strict=True):
        assert torch.equal(one.labels, loose.labels) and torch.equal(one.labels, shards.labels)
        assert torch.equal(loose.images, shards.images)
        assert (one.images - loose.images).abs().mean() < 2.5  # strong colours, through JPEG twice


def test_stored_pixels_match_pillows_resize_of_the_same_region(originals, tmp_path):
    image = np.asarray(Image.open(next((originals / "cat").iterdir())).convert("RGB"))
    tall = np.ascontiguousarray(image[:, :49])
    stored = store.resize_on_the_grid(tall, SIDE)
    assert stored.shape[1] == SIDE and (stored.shape[0] - SIDE) % 2 == 0
    scale = 49 / SIDE
    top = (tall.shape[0] - 49) / 2
    square = Image.fromarray(tall).resize(
        (SIDE, SIDE), Image.Resampling.BILINEAR, box=(0, top, 49, top + 49)
    )
    first = (stored.shape[0] - SIDE) // 2
    difference = np.abs(
        stored[first : first + SIDE].astype(int)[2:-2] - np.asarray(square).astype(int)[2:-2]
    )
    # The rows at the square's ends are left out: only one of the two resizes sees beyond it
    assert difference.max() <= 1
    assert stored.shape[0] * scale <= tall.shape[0] < (stored.shape[0] + 2) * scale


def test_crops_of_stored_images_need_no_resampling(prepared, monkeypatch):
    for form, are_cuts in (("loose", True), ("shards", True), ("originals", False)):
        samples = plan_for(prepared[form].train).samples(0, 0, 1)
        assert geometry.are_cuts(samples.boxes, CROP) == are_cuts
    cut = load(prepared["shards"].train)
    monkeypatch.setattr("alexnet_dali.pipeline.feeder.are_cuts", lambda boxes, size: False)
    for one, other in zip(cut, load(prepared["shards"].train), strict=True):
        assert torch.equal(one.images, other.images)  # resampling at scale 1 is the identity


@pytest.mark.parametrize("num_shards", [2, 4])
def test_shards_give_the_same_batches_from_any_step_on_any_number_of_ranks(prepared, num_shards):
    whole = load(prepared["shards"].train)
    parts = [load(prepared["shards"].train, 5, shard, num_shards) for shard in range(num_shards)]
    for step, batch in enumerate(whole[5:]):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))


def test_other_readers_can_read_the_shards(prepared):
    folder = prepared["shards"].folder / "shards"
    with tarfile.open(folder / "train-000000.tar") as tar:
        names = tar.getnames()
        first = Image.open(tar.extractfile(names[0]))
        first.load()
    train = prepared["shards"].train
    assert (
        names[0].endswith(".jpg")
        and names[1] == names[0][:-3] + "cls"
        and len(names) == 2 * len(train)
    )
    assert [first.height, first.width] == train.sizes[0].tolist()
    pipeline = Pipeline(batch_size=len(train), num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        jpg, label = fn.readers.webdataset(
            paths=[str(folder / "train-000000.tar")], ext=["jpg", "cls"]
        )
        pipeline.set_outputs(fn.decoders.image(jpg, output_type=types.RGB).shape(), label)
    shapes, labels = pipeline.run()
    assert [int(bytes(np.asarray(label))) for label in labels] == train.labels.tolist()
    np.testing.assert_array_equal(
        np.stack([np.asarray(shape)[:2] for shape in shapes]), train.sizes
    )


@pytest.mark.parametrize("form", ["originals", "loose"])
def test_other_readers_can_read_the_lists_of_files(prepared, form):
    """As README.md in the folder says it: the root of a list, and the list."""
    folder, train = prepared[form].folder, prepared[form].train
    said = re.search(r'readers\.file\(file_root="(.+)", file_list="(.+)"\)', read_me(folder))
    assert said and said[1] in re.findall(r"`(.+?)`", read_me(folder))
    pipeline = Pipeline(batch_size=len(train), num_threads=1, device_id=None)
    with pipeline:
        files, label = fn.readers.file(
            file_root=str(folder / said[1]), file_list=str(folder / said[2])
        )
        pipeline.set_outputs(fn.peek_image_shape(files), label)
    shapes, labels = pipeline.run()
    assert np.asarray(labels.as_tensor()).ravel().tolist() == train.labels.tolist()
    np.testing.assert_array_equal(np.asarray(shapes.as_tensor())[:, :2], train.sizes)


def read_me(folder):
    return (folder / "README.md").read_text()


def test_shards_are_described_for_timm(prepared, originals, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 20_000)
    small = ["--resize", SIDE, "--shards"]
    prep(originals, tmp_path / "many", *small)
    folder = tmp_path / "many/shards"
    info = json.loads((folder / "_info.json").read_text())
    for split in ("train", "val"):
        about = info["splits"][split]
        paths = sorted(folder.glob(f"{split}-*.tar"))
        assert [path.name for path in paths] == about["filenames"]
        counts = []
        for path in paths:
            with tarfile.open(path) as shard:
                counts.append(sum(name.endswith(".jpg") for name in shard.getnames()))
        assert counts == about["shard_lengths"] and sum(counts) == about["num_samples"]
    assert len(info["splits"]["train"]["filenames"]) > 1
    assert "readers.file" not in read_me(tmp_path / "many")


def test_a_folder_says_what_is_in_it(prepared):
    for dataset in prepared.values():
        named = set(re.findall(r"`([\w.]+\.(?:txt|npz|yaml|json))`", read_me(dataset.folder)))
        there = {path.name for path in dataset.folder.rglob("*") if path.suffix != ".jpg"}
        there = {name for name in there if not name.endswith(".tar")}
        assert named == there - {"README.md", "images", "shards", "train", "val", "cat", "dog"}


def test_a_moved_store_still_opens(prepared, tmp_path):
    moved = tmp_path / "moved"
    os.rename(prepared["loose"].folder, moved)
    try:
        assert len(load(Dataset.open(moved).train)) == 12
    finally:
        os.rename(moved, prepared["loose"].folder)


def test_a_damaged_shard_is_named(originals, tmp_path):
    dataset = prep(originals, tmp_path / "out", "--resize", SIDE, "--shards")
    os.truncate(tmp_path / "out/shards/train-000000.tar", 4000)
    with pytest.raises(DatasetError, match=r"train-000000\.tar/.*can't be used any more"):
        load(dataset.train)


@pytest.mark.parametrize("form", [[], ["--shards"]], ids=["loose", "shards"])
def test_names_that_meet_or_are_too_long_are_stored_apart(tmp_path, form):
    """As cameras and Windows leave them, and where a file system takes A for a."""
    names = ["IMG_1.JPG", "IMG_1.jpg", "img_1.jpeg", "a.png", "a_png.jpg", "b.JPEG"]
    names += ["x" * 251 + ".png", "x" * 250 + "y.png", "\u00fc" * 125 + ".jpg"]
    expected = {}
    for place, name in enumerate(names):
        for folder in ("cat", "dog"):
            image = np.full((SIDE, SIDE, 3), 20 * place + 5 * (folder == "dog"), np.uint8)
            (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
            kind = "PNG" if name.endswith("png") else "JPEG"
            Image.fromarray(image).save(tmp_path / "images" / folder / name, kind)
            expected[f"{folder}/{name}"] = image[0, 0, 0]
    train = str(tmp_path / "images")
    arguments = ["--train", train, "--val", train, "--resize", str(SIDE), *form]
    prep_imagenet.main([*arguments, "--out", str(tmp_path / "out")])
    images = Dataset.open(tmp_path / "out").train
    stored = [images.name(index).removeprefix("train-000000.tar/") for index in range(len(images))]
    assert len({name.casefold() for name in stored}) == len(expected) == len(stored)
    assert max(len(os.fsencode(part)) for name in stored for part in name.split("/")) <= 255
    assert "cat/b.jpg" in stored
    for index, name in enumerate(sorted(expected)):  # in the order of the originals
        pixels = np.asarray(Image.open(io.BytesIO(images.content(index).tobytes())))
        assert np.abs(pixels.astype(int) - int(expected[name])).max() <= 2


def test_a_stored_name_that_meets_a_mark_is_marked_too(tmp_path):
    names = ["a/1.JPG", "a/1.jpg"]
    marked = store.stored_name(names[0], marked=True)
    source = Source.of(tmp_path, [*names, marked], [0, 0, 0]).distinct()
    stored = [source.stored_name(index) for index in range(3)]
    assert len(set(stored)) == 3 and stored[0] == marked
    part = source.take([1, 2])
    assert [part.stored_name(index) for index in range(2)] == stored[1:]


def save_always_and_close_shards_early(monkeypatch):
    monkeypatch.setattr(journal, "_SAVE_EVERY", 0)
    monkeypatch.setattr(store, "SHARD_BYTES", 100_000)


def prep_to_be_killed(words):
    save_always_and_close_shards_early(pytest.MonkeyPatch())
    prep_imagenet.main(words)


def test_a_killed_preparation_resumes_to_the_same_folder(tmp_path, monkeypatch):
    """It is killed twice, and saves its journal after every chunk.

    The folder must be the same as from one run without a kill.
    """
    write_class_folders(tmp_path / "images", dict.fromkeys("abc", 150), sides=(60, 90))
    (tmp_path / "images/a/bad.jpg").write_text("no image")
    words = ["--train", tmp_path / "images", "--hold-out", "0.1", "--resize", 48, "--shards"]
    words = [*map(str, words), "--out"]
    save_always_and_close_shards_early(monkeypatch)
    prep_imagenet.main([*words, str(tmp_path / "whole")])
    state, before = tmp_path / ".killed.unfinished/notes/train.npz", 0
    for _ in range(2):
        process = Started(prep_to_be_killed, [*words, str(tmp_path / "killed")])
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None, process.errors()
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        before = state.stat().st_mtime_ns
    prep_imagenet.main([*words, str(tmp_path / "killed")])
    assert not (tmp_path / ".killed.unfinished").exists()
    whole, killed = Dataset.open(tmp_path / "whole"), Dataset.open(tmp_path / "killed")
    assert whole.fingerprint == killed.fingerprint
    for index in range(len(whole.train)):
        np.testing.assert_array_equal(whole.train.content(index), killed.train.content(index))
    assert (tmp_path / "whole/rejected.txt").read_bytes() == (
        tmp_path / "killed/rejected.txt"
    ).read_bytes()


def test_an_unfinished_folder_of_another_preparation_is_left_alone(originals, tmp_path):
    unfinished = tmp_path / ".out.unfinished"
    unfinished.mkdir()
    (unfinished / "identity").write_text("other files")
    with pytest.raises(ValueError, match="begun with other files or options"):
        prep(originals, tmp_path / "out")
    assert (unfinished / "identity").read_text() == "other files"


def test_notes_are_ignored_if_their_images_are_gone(originals, tmp_path, monkeypatch):
    """A user may have removed the images, or a kill at the last moment may have lost them.

    Lists without images would pass for a finished folder.
    """
    interrupt(originals, tmp_path / "out", monkeypatch)
    assert (tmp_path / ".out.unfinished/notes").is_dir()
    shutil.rmtree(tmp_path / ".out.unfinished/folder")
    dataset = prep(originals, tmp_path / "out", "--resize", SIDE)
    assert len(dataset.train) == 28 and all(
        dataset.train.content(index).size for index in range(28)
    )


def test_a_file_that_changed_since_an_interruption_is_not_taken_as_it_was(
    originals, tmp_path, monkeypatch
):
    interrupt(originals, tmp_path / "out", monkeypatch)
    _, time_of_change = np.fromfile(tmp_path / ".out.unfinished/notes/val.rows", ROW)["stamp"][0]
    (first,) = (path for path in originals.glob("*/*") if path.stat().st_mtime_ns == time_of_change)
    content = first.read_bytes()
    try:
        first.write_bytes(content + b"more")
        with pytest.raises(DatasetError, match=f"{first.name} has changed since.*begin afresh"):
            prep(originals, tmp_path / "out", "--resize", SIDE)
        assert len(prep(originals, tmp_path / "out", "--resize", SIDE).train) == 28
    finally:
        first.write_bytes(content)


def interrupt(originals, out, monkeypatch):
    """Prepare until the disk fails, behind the first files, which have been noted."""
    monkeypatch.setattr(Workers, "results", fail_after_one)
    monkeypatch.setattr(examine, "_decoder_said", lambda: "")
    monkeypatch.setattr(Journal, "is_due", lambda self: True)
    with pytest.raises(OSError):
        prep(originals, out, "--resize", SIDE)
    monkeypatch.undo()


def fail_after_one(self, tasks):
    yield next(iter(tasks)).run()
    raise OSError("the disk is gone")


def test_a_shard_is_what_tarfile_writes(tmp_path):
    """With long names too, which take headers of their own, and labels of several digits."""
    files = [
        ("a/1.jpg", 3, b"x" * 512),
        ("b" * 90 + "/" + "c" * 90 + ".png", 1234, b"yy"),
        ("ü", 0, b""),
    ]
    shards = store.Shards(tmp_path, "train")
    made = [store.tar_entry(store.stored_name(name), *more) for name, *more in files]
    places = shards.add([entry for entry, _ in made])
    shards.close()
    with tarfile.open(tmp_path / "expected.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, label, image in files:
            member = store.stored_name(name)
            for kind, data in ((member, image), (member[:-3] + "cls", str(label).encode())):
                entry = tarfile.TarInfo(kind)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    content = (tmp_path / "train-000000.tar").read_bytes()
    assert content == (tmp_path / "expected.tar").read_bytes()
    for (_, _, image), (_, offset), (_, start) in zip(files, made, places, strict=True):
        assert content[start + offset :][: len(image)] == image


def test_a_shard_is_closed_when_it_has_grown_and_work_resumes_in_its_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 3 * 2048)
    entries = [store.tar_entry(f"{number}.jpg", number, b"x" * 100)[0] for number in range(8)]
    assert {len(entry) for entry in entries} == {2048}
    whole, resumed = (
        store.Shards(tmp_path / "whole", "val"),
        store.Shards(tmp_path / "again", "val"),
    )
    places = whole.add(entries)
    assert places.tolist() == [[n // 3, n % 3 * 2048] for n in range(8)]
    whole.close()
    resumed.add(entries[:4])
    position = resumed.position()
    resumed.add(entries[4:])  # lost in a kill
    resumed = store.Shards(tmp_path / "again", "val", position)
    assert resumed.add(entries[4:]).tolist() == places[4:].tolist()
    resumed.close()
    for shard in ("val-000000.tar", "val-000001.tar", "val-000002.tar"):
        assert (tmp_path / "again" / shard).read_bytes() == (
            tmp_path / "whole" / shard
        ).read_bytes()


def test_a_full_disk_is_named_by_the_worker_that_writes(tmp_path):
    os.symlink("/dev/full", tmp_path / "x.jpg")
    with pytest.raises(OSError) as caught:
        store.write_file(tmp_path, "x.jpg", b"x" * 100)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "x.jpg")
    again = pickle.loads(pickle.dumps(caught.value))  # on its way to the process that tells it
    assert (again.errno, again.filename) == (errno.ENOSPC, str(tmp_path / "x.jpg"))


def test_every_list_says_how_long_its_files_are(prepared):
    """Readers can then tell that a file was cut short without opening it in Python."""
    for dataset in prepared.values():
        for images in (dataset.train, dataset.val):
            assert (images.spans is None) != (images.lengths is None)
            for index in range(len(images)):
                size = images.content(index).size
                if images.spans is None:
                    assert images.length(index) == size == os.path.getsize(images.path(index))
                else:
                    assert images.archive(index)[2] == size
