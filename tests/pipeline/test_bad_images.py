"""Images that go bad after they were prepared: named, and replaced by others of their class."""

import random
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset import Dataset, DatasetError
from pipeline.loader import NOT_COUNTED, Loader
from pipeline.plan import EvaluationPlan, TrainingPlan
from pipeline.preprocessing import Preprocessing
from pipeline.stand_ins import stand_in, stop
from tests.images import prepare, smooth_image
from tools import prep_imagenet

PLAIN = Preprocessing.nothing(96, 80)


def resized(content, factor):
    image = Image.open(BytesIO(content)).convert("RGB")
    out = BytesIO()
    image.resize((int(image.width * factor), int(image.height * factor))).save(out, "JPEG")
    return out.getvalue()


DAMAGE = {
    "text": lambda content: b"no picture\n" * 50,
    "noise": lambda content: random.Random(0).randbytes(len(content)),
    "stump": lambda content: content[: len(content) // 2],
    "header alone": lambda content: content[:200],
    "empty": lambda content: b"",
    "smaller": lambda content: resized(content, 0.5),
    "larger": lambda content: resized(content, 2),
    "gone": None,
}


@pytest.fixture
def images(dataset, tmp_path):
    """A copy of the training images, whose files may be damaged."""
    shutil.copytree(dataset.train.root, tmp_path / "copy")
    return replace(dataset.train, root=str(tmp_path / "copy"))


def damage(images, index, kind):
    path = Path(images.path(index))
    if DAMAGE[kind] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGE[kind](path.read_bytes()))


def plan(images, num_steps=8):
    return TrainingPlan(len(images), batch_size=12, margin=16, seed=3, num_steps=num_steps)


def shown(images, seen, **options):
    """Pixels and labels of every step, in one array each."""
    loader = Loader(images, plan(images), PLAIN, num_threads=2, on_bad_image=seen, **options)
    return [(batch.images.numpy(), batch.labels.numpy()) for batch in loader]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_image_is_named_and_another_of_its_class_is_shown(dataset, images, kind):
    bad = plan(images).views(0, 0, 1).indices[:3]
    for index in bad:
        damage(images, int(index), kind)
    seen = []
    found, sound = shown(images, seen.append), shown(dataset.train, stop)
    assert {one.path for one in seen} == {images.path(int(index)) for index in bad}
    for step in range(8):
        missing = np.isin(plan(images).views(step, 0, 1).indices, bad)
        np.testing.assert_array_equal(found[step][0][~missing], sound[step][0][~missing])
        np.testing.assert_array_equal(found[step][1], sound[step][1])  # the class stays
        assert sum(one.step == step for one in seen) == missing.sum()
    with pytest.raises(DatasetError, match="can't be used any more"):
        shown(images, stop)


def test_stand_ins_are_crops_of_the_images_that_are_named(images):
    bad = int(plan(images).views(0, 0, 1).indices[5])
    damage(images, bad, "text")
    seen = []
    found = shown(images, seen.append)[0][0][5]
    other = next(i for i in range(len(images)) if images.path(i) == seen[0].stand_in)
    assert other != bad and images.labels[other] == images.labels[bad]
    views = plan(images).views(0, 0, 1)
    of_another = replace_index(views, 5, other)
    loader = Loader(images, OneStep(of_another), PLAIN)
    np.testing.assert_array_equal(found, next(iter(loader)).images[5].numpy())


def replace_index(views, row, index):
    indices = views.indices.copy()
    indices[row] = index
    return views._replace(indices=indices)


class OneStep:
    num_steps = steps_per_epoch = 1

    def __init__(self, views):
        self._views, self.batch_size = views, len(views.indices)

    def views(self, step, part, num_parts):
        return self._views


def test_stand_ins_are_the_same_on_any_number_of_ranks_and_after_a_resume(images):
    for index in range(0, len(images), 4):
        damage(images, index, "noise")
    whole = shown(images, [].append)
    halves = [shown(images, [].append, part=part, num_parts=2) for part in range(2)]
    for step, (pixels, labels) in enumerate(whole):
        np.testing.assert_array_equal(pixels, np.concatenate([half[step][0] for half in halves]))
        np.testing.assert_array_equal(labels, np.concatenate([half[step][1] for half in halves]))
    for (pixels, _), (again, _) in zip(whole[5:], shown(images, [].append, first_step=5)):
        np.testing.assert_array_equal(pixels, again)


def test_where_a_class_is_gone_another_class_stands_in_with_its_own_label(images):
    lost = np.flatnonzero(images.labels == 0)
    for index in lost:
        damage(images, int(index), "gone")
    seen = []
    for step, (_, labels) in enumerate(shown(images, seen.append)):
        assert 0 not in labels
        for one in seen:
            stands = next(i for i in range(len(images)) if images.path(i) == one.stand_in)
            row = list(plan(images).views(one.step, 0, 1).indices).index(one.number)
            if one.step == step:
                assert labels[row] == images.labels[stands]


def test_an_evaluation_does_not_count_what_it_could_not_show(images):
    damage(images, 4, "stump")
    seen = []
    loader = Loader(
        images,
        EvaluationPlan(len(images), 12),
        PLAIN,
        on_bad_image=seen.append,
        count_stand_ins=False,
    )
    labels = np.concatenate([batch.labels.numpy() for batch in loader])[: len(images)]
    expected = images.labels.copy()
    expected[4] = NOT_COUNTED
    np.testing.assert_array_equal(labels, expected)
    assert [one.path for one in seen] == [images.path(4)]


def test_where_no_image_is_left_one_message_says_so(images):
    for index in range(len(images)):
        damage(images, index, "gone")
    with pytest.raises(DatasetError, match="nor can any other image"):
        shown(images, [].append)


def test_images_of_shards_that_are_cut_while_they_are_read_are_named_with_the_shard(tmp_path):
    data = prepare(tmp_path, {"a": 12, "b": 12}, {"a": 2, "b": 2}, "--resize", "96", "--shards")
    images = Dataset.open(data).train
    shard = Path(images.archive(0)[0])
    whole, seen = shown(images, stop), []
    loader = iter(Loader(images, plan(images), PLAIN, num_threads=2, on_bad_image=seen.append))
    np.testing.assert_array_equal(next(loader).images.numpy(), whole[0][0])
    with open(shard, "r+b") as file:
        file.truncate(int(images.spans[:, 1].max()) + 10)
    later = list(loader)
    assert len(later) == 7 and seen and all(str(shard) in one.why for one in seen)


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
    one_batch = TrainingPlan(len(images), len(images), margin=16, seed=3, num_steps=3)
    last = int(one_batch.views(0, 0, 1).indices[-1])  # DALI's threads survive it at the end
    first_stand_in = stand_in(images, last, 0, 0, lambda index: True)
    bad = [Path(images.path(index)) for index in (last, first_stand_in)]
    for path in bad:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = random.Random(0).randbytes(len(content) - len(content) // 2)
        path.write_bytes(content)
    seen = []
    loader = Loader(images, one_batch, PLAIN, on_bad_image=seen.append, num_threads=1)
    assert len(list(loader)) == 3
    assert {one.path for one in seen} == set(map(str, bad))
