"""The pipeline as other training loops use it: epochs, states, and images with their own labels."""

import functools
import gc
import inspect
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image
from scipy import stats

from alexnet_dali.pipeline import (
    CentreCrop,
    DataLoader,
    Dataset,
    Pixels,
    RandomCrop,
    RandomResizedCrop,
    TenCrops,
)
from alexnet_dali.pipeline.draws import Draws
from alexnet_dali.pipeline.feeder import IGNORE_INDEX
from tests.images import prepare

RAW = Pixels(dtype="uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """42 training and 7 validation images of two classes, each of one colour of its own."""
    root = tmp_path_factory.mktemp("colours")
    prepared = prepare(root, {"a": 21, "b": 21}, {"a": 3, "b": 4})
    return prepared


def reference(dataset, index, box, mirrored, size):
    """The same region by Pillow, [3, size, size]."""
    top, left, bottom, right = box
    image = Image.open(dataset.path(index)).convert("RGB")
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    pixels = np.asarray(image, np.float64).transpose(2, 0, 1)
    return pixels[:, :, ::-1] if mirrored else pixels


def loader(folder, split="train", **options):
    options = {"global_batch_size": 8, "crops": CentreCrop(32, 40), "pixels": RAW} | options
    return DataLoader(folder, split, **options)


def draws(count, seed=0, epoch=0):
    return Draws(seed, epoch, np.arange(count))


def digest(images):
    """A number that tells images apart."""
    return images.double().mean(dim=(1, 2, 3)).tolist()


def test_each_loop_is_an_epoch_of_every_image_in_a_new_order(folder):
    batches = loader(folder)
    epochs = [[labels.tolist() for _, labels in batches] for _ in range(2)]
    assert len(batches) == 5 and [len(epoch) for epoch in epochs] == [5, 5]
    assert len(batches.dataset) == 42 and batches.dataset.labels.tolist().count(0) == 21
    assert epochs[0] != epochs[1] and batches.epoch == 2
    assert batches.classes == batches.class_names == ["a", "b"]


def test_validation_images_come_once_in_order_and_the_last_batch_is_smaller(folder):
    images, labels = zip(*loader(folder, "val", global_batch_size=4))
    assert [len(batch) for batch in images] == [4, 3]
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1, 1]


def check_own_labels(batches, shown):
    """Checks that images [n] belong to their labels: each image's mean colour is its own."""
    known = {
        round(float(value), 3): int(label)
        for index, label in enumerate(batches.dataset.labels)
        for value in [centre_mean(batches, index)]
    }
    for images, labels in shown:
        for value, label in zip(digest(images), labels.tolist(), strict=True):
            nearest = min(known, key=lambda other: abs(other - value))
            assert abs(nearest - value) < 0.5 and known[nearest] == label


def centre_mean(batches, index):
    sizes = batches.dataset.sizes[index : index + 1]
    (box,), _ = CentreCrop(32, 40).draw(draws(1), sizes)
    return reference(batches.dataset, index, box, False, 32).mean()


def test_images_keep_their_labels_whatever_is_done_with_iterators(folder):
    batches = loader(folder)
    shown = []
    left_behind = iter(batches)
    shown.append(next(left_behind))
    shown += list(batches)  # the next epoch, although the first was not finished
    one, other = iter(batches), iter(batches)
    for _ in range(2):
        shown += [next(one), next(other), next(other)]
    shown += [next(left_behind), *one, *other]
    check_own_labels(batches, shown)
    second = loader(folder, seed=1)
    for pair in zip(batches, second):
        shown += pair
    check_own_labels(batches, shown)


def test_iterators_that_are_left_behind_do_not_change_what_follows(folder):
    plain, disturbed = loader(folder), loader(folder)
    expected = [digest(images) for _ in range(3) for images, _ in plain]
    found = [digest(images) for images, _ in disturbed]
    next(iter(disturbed))
    disturbed.load_state_dict(disturbed.state_dict() | {"step": 5})
    found += [digest(images) for _ in range(2) for images, _ in disturbed]
    assert found == expected


@pytest.mark.parametrize("step", [0, 3, 5, 8])
def test_a_state_resumes_exactly_also_on_another_number_of_ranks(folder, step):
    options = {"crops": RandomResizedCrop(32)}
    whole = loader(folder, **options)
    everything = [batch for _ in range(2) for batch in whole]
    saved = loader(folder, **options)
    batches = (batch for _ in range(2) for batch in saved)
    for _ in range(step):
        next(batches)
    state = saved.state_dict()
    assert state["step"] == step
    halves = [loader(folder, rank=rank, world_size=2, **options) for rank in range(2)]
    for half in halves:
        half.load_state_dict(state)
    left = everything[step:]
    parts = [[batch for _ in range(2) for batch in half][: len(left)] for half in halves]
    for one, other, (images, labels) in zip(*parts, left, strict=True):
        assert torch.equal(torch.cat([one[0], other[0]]), images)
        assert torch.equal(torch.cat([one[1], other[1]]), labels)


def test_wrong_arguments_say_what_was_expected(folder):
    for options, message in [
        ({"split": "training"}, 'split is .training.; expected "train", "val" or "test"'),
        ({"global_batch_size": 7, "rank": 0, "world_size": 2}, "of all 2 ranks together"),
        ({"global_batch_size": 100}, "an epoch has 42 images"),
        ({"rank": 2, "world_size": 2}, "expected 0 to 1"),
        ({"rank": 0}, "rank and world_size together"),
        ({"device": "tpu"}, 'device is .tpu.; expected "cpu", "cuda" or "cuda:N"'),
        ({"global_batch_size": 8.0}, "global_batch_size is 8.0"),
        ({"crops": 48}, "crops is 48; expected one such as"),
        ({"crops": RandomResizedCrop}, "expected one such as"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"decoder": "tpu"}, 'decoder is .tpu.; expected "gpu" or "cpu"'),
        ({"order": lambda rng, labels: labels == 1}, "the order gives bool"),
        ({"order": lambda rng, labels: labels + 41}, "indices of images, 0 to 41"),
        ({"order": lambda rng, labels: labels[:3]}, "an epoch has 3 images"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            loader(folder, **options)
    for wrong, message in [
        ({"mean": "pixel"}, 'mean is .* expected "channel" or "image" or three numbers'),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"mean": "image", "channels_last": True}, "a mean image is subtracted in float32"),
        ({"dtype": "uint8", "lighting_std": 0.1}, "lighting goes with"),
        ({"std": (0, 1, 1)}, "std is .* expected three numbers above 0"),
        ({"mean": 123.0}, "mean is 123.0"),
        (
            {"mean": (0.485, 0.456, 0.406)},
            r"mean is \(0.485, .*0 to 255: .* \(123.675, 116.28, 103.53\)",
        ),
        ({"std": (0.229, 0.224, 0.225)}, r"std is .* \(58.395, 57.12, 57.375\)"),
        ({"lighting_std": -1}, "lighting_std is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Pixels(**wrong)
    for crops, message in [
        (lambda: RandomResizedCrop(0), "size is 0"),
        (lambda: RandomResizedCrop((224, 224)), r"size is \(224, 224\) .* crops are square"),
        (lambda: RandomCrop(224, (256, 300)), r"resize \(256, 300\); .* crops are square"),
        (lambda: RandomResizedCrop(scale=(1, 0.1)), "scale is"),
        (lambda: CentreCrop(80, 64), "a crop that is no larger"),
        (lambda: RandomCrop(flip=2), "flip is 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            crops()
    for name, message in [
        ("batch_size", "batch_size is torch's; expected global_batch_size"),
        ("num_workers", "num_workers is torch's; expected num_threads"),
        ("shuffle", "shuffle is torch's; expected split"),
    ]:
        with pytest.raises(TypeError, match=message):
            DataLoader(folder, **{name: 1})
    assert "global_batch_size" in inspect.signature(DataLoader).parameters
    with pytest.raises(ValueError, match="not as the one that was saved: seed was 0, is 1"):
        loader(folder, seed=1).load_state_dict(loader(folder).state_dict())


CROPS = [RandomResizedCrop(32), RandomCrop(32, 40), CentreCrop(32, 40), TenCrops(32, 40)]


@pytest.mark.parametrize("crops", CROPS, ids=[type(crop).__name__ for crop in CROPS])
def test_pixels_of_every_crop_are_pillows(folder, crops):
    batches = loader(folder, crops=crops, order=lambda rng, labels: np.arange(40))
    boxes, mirrored = crops.draw(draws(40), batches.dataset.sizes[:40])
    images = torch.cat([images for images, _ in batches]).numpy()
    assert len(images) == 40 * crops.views
    for row, image in enumerate(images):
        index = row // crops.views
        expected = reference(batches.dataset, index, boxes[row], mirrored[row], 32)
        difference = np.abs(image - expected)
        assert difference.max() <= 4 and difference.mean() < 0.6


def torchvisions(height, width, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """RandomResizedCrop.get_params as torchvision documents it, one image at a time."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(375, 500), (500, 300), (200, 1000), (64, 64)])
def test_random_resized_crops_are_distributed_as_torchvisions(size):
    """10,000 draws of each: shares, shapes and positions by the test of Kolmogorov and Smirnov."""
    rng = np.random.default_rng(1)
    expected = np.array([torchvisions(*size, rng) for _ in range(10_000)])
    sizes = np.tile(np.array(size, np.int32), (10_000, 1))
    boxes, mirrored = RandomResizedCrop().draw(draws(10_000, seed=2), sizes)
    start, shape = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    found = np.concatenate([start, shape], axis=1)
    for name, measure in {
        "top": lambda crop: crop[:, 0],
        "left": lambda crop: crop[:, 1],
        "area": lambda crop: crop[:, 2] * crop[:, 3],
        "ratio": lambda crop: crop[:, 3] / crop[:, 2],
    }.items():
        result = stats.ks_2samp(measure(found), measure(expected))
        assert result.pvalue > 0.001, name
    assert abs(mirrored.mean() - 0.5) < 0.02
    assert (found[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all()


def test_an_image_too_long_for_any_shape_is_shown_by_its_centre():
    sizes = np.tile(np.array((20, 2000), np.int32), (100, 1))
    boxes, _ = RandomResizedCrop(scale=(0.9, 1.0)).draw(draws(100), sizes)
    assert (boxes == [0, 986, 20, 1013]).all()


def test_pixels_are_normalised_in_every_type_and_layout(folder):
    mean, std = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    (raw, _), *_ = loader(folder)
    assert raw.dtype == torch.uint8
    expected = (raw.double() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for dtype, channels_last, allowed in [
        ("float32", False, 0.02),
        ("float32", True, 0.02),
        ("float16", True, 0.03),
    ]:
        pixels = Pixels(mean, std, dtype, channels_last)
        (images, _), *_ = loader(folder, pixels=pixels)
        assert images.dtype == getattr(torch, dtype) and images.shape == (8, 3, 32, 32)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=layout)
        # The raw pixels are rounded to whole levels, of which a deviation has 40 and more.
        assert (images.double() - expected).abs().max() < allowed


def test_by_default_training_pixels_have_mean_zero_and_deviation_one(folder):
    """Over whole images the statistics are those of the training set's central squares."""
    whole = CentreCrop(64, 64)
    values = torch.cat([images for images, _ in loader(folder, crops=whole, pixels=Pixels())])
    assert values.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (values.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    deviation = Dataset.open(folder).stats.channel_std()
    assert (deviation > 20).all() and (deviation < 100).all()


def test_an_order_may_repeat_and_weigh_images(folder):
    """Repeated augmentation: an image comes three times, each time by another crop."""

    def thrice(rng, labels):
        return np.repeat(rng.permutation(len(labels))[:14], 3)

    batches = loader(folder, crops=RandomResizedCrop(32), order=thrice, global_batch_size=3)
    for images, labels in batches:
        assert len(set(labels.tolist())) == 1 and len(set(digest(images))) == 3

    def balanced(rng, labels):
        counts = np.bincount(labels)
        weights = 1 / counts[labels] / len(counts)
        return rng.choice(len(labels), 400, p=weights)

    labels = torch.cat([labels for _, labels in loader(folder, order=balanced)])
    assert abs(labels.double().mean() - 0.5) < 0.1


def test_an_order_must_be_as_long_in_every_epoch_and_can_not_change_labels(folder):
    def shrinking(rng, labels):
        return np.arange(16 if rng.integers(2) else 8)

    batches = loader(folder, order=shrinking, seed=3)
    with pytest.raises(ValueError, match="expected the same number in every epoch"):
        for _ in range(8):
            list(batches)

    def spoiling(rng, labels):
        rng.shuffle(labels)
        return np.arange(len(labels))

    with pytest.raises(ValueError, match="read-only"):
        loader(folder, order=spoiling)


@dataclass(frozen=True)
class Growing:
    """Crops of one's own: squares of the middle, half of it at first, the whole from epoch 4 on."""

    size: int = 32
    resize: int = 32
    views: int = 1

    def draw(self, draws, sizes):
        side = sizes.min(axis=1, keepdims=True) * min(1, 0.5 + draws.epoch / 8)
        boxes = np.concatenate([(sizes - side) / 2, (sizes + side) / 2], axis=1)
        return boxes, draws.uniform("mine", 1)[:, 0] < 0.5


def first_eight(rng, labels):
    return np.arange(8)


def test_crops_of_ones_own_know_their_epoch(folder):
    batches = loader(folder, crops=Growing(), order=first_eight)
    for epoch in range(6):
        ((images, _),) = batches
        flips = draws(8, epoch=epoch).uniform("mine", 1)[:, 0] < 0.5
        for index, image in enumerate(images.numpy()):
            height, width = batches.dataset.sizes[index]
            half = min(height, width) * min(1, 0.5 + epoch / 8) / 2
            middle = np.array([height, width, height, width]) / 2
            box = middle + half * np.array([-1, -1, 1, 1])
            expected = reference(batches.dataset, index, box, flips[index], 32)
            assert np.abs(image - expected).max() <= 4
    state = batches.state_dict()
    with pytest.raises(ValueError, match=r"crops was '.*\.Growing"):
        loader(folder, order=first_eight).load_state_dict(state)


def test_an_order_that_fails_later_ends_the_loop_in_its_epoch(folder):
    """It is drawn in the background, while the epoch before is shown."""
    epochs = iter(range(10))

    def order(rng, labels):
        if next(epochs) == 2:
            raise KeyError("no weights any more")
        return rng.permutation(len(labels))

    batches = loader(folder, order=order)
    assert [len(list(batches)) for _ in range(2)] == [5, 5]
    with pytest.raises(KeyError, match="no weights any more"):
        list(batches)
    assert batches.step == 10


def test_lighting_ends_after_its_epochs(folder):
    lit = Pixels((0, 0, 0), (1, 1, 1), lighting_std=0.1)
    options = {"order": lambda rng, labels: np.arange(8), "crops": CentreCrop(32, 32)}
    batches = loader(folder, pixels=lit, lighting_epochs=1, **options)
    plain = loader(folder, pixels=Pixels((0, 0, 0), (1, 1, 1)), **options)
    offsets = [one - other for (one, _), (other, _) in zip(batches, plain)]
    offsets += [one - other for (one, _), (other, _) in zip(batches, plain)]
    noise = draws(8).normal("lighting", 3) @ (0.1 * lighting_directions(folder)).T
    expected = torch.from_numpy(noise)[:, :, None, None].expand(-1, -1, 32, 32)
    torch.testing.assert_close(offsets[0].double(), expected, atol=1e-4, rtol=0)
    assert not offsets[1].any()


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_are_rescaled_keep_their_type(folder, dtype, split):
    light = 0.1 if dtype == "float16" else 0.0
    pixels = {
        kind: Pixels(dtype=kind, lighting_std=light, lit_gain=0.5) for kind in (dtype, "float32")
    }
    if dtype == "uint8":
        pixels["float32"] = Pixels((0, 0, 0), (1, 1, 1))
    (one, _), (other, _) = (
        next(iter(loader(folder, split, pixels=pixels[kind]))) for kind in pixels
    )
    assert one.dtype == getattr(torch, dtype)
    torch.testing.assert_close(one.float(), other, atol=0.6 if dtype == "uint8" else 2e-3, rtol=0)


class Brighter:
    """An augmentation with the `repr` that Python gives it."""

    def __init__(self, name):
        self.name = name

    def draw(self, draws):
        return np.full(len(draws), 1.5, np.float32)

    def apply(self, pixels, drawn):
        return fn.brightness(pixels, brightness=drawn)


@pytest.mark.parametrize("names", [["mean"], ["gain"], ["mine", "mine"]])
def test_augmentations_have_names_of_their_own(folder, names):
    with pytest.raises(ValueError, match=f"an augmentation is named '{names[-1]}', as another"):
        loader(folder, augmentations=[Brighter(name) for name in names])


def test_a_state_fits_options_that_are_made_again(folder):
    def by_class(kind, rng, labels):
        return np.argsort(labels)

    def options():
        order = functools.partial(by_class, None)
        return {"augmentations": [Brighter("mine")], "order": order}

    one, other = options(), options()
    state = loader(folder, **one).state_dict()
    loader(folder, **other).load_state_dict(state)
    with pytest.raises(ValueError, match="augmentations was"):
        loader(folder, order=one["order"]).load_state_dict(state)


def lighting_directions(folder):
    """[3, 3]: principal components times deviations along them, from the saved statistics."""
    saved = Dataset.open(folder).stats
    return saved.eigenvectors * np.sqrt(saved.eigenvalues)


def test_validation_is_never_lit(folder):
    """Whatever its pixels are: they are often those of training."""
    lit = Pixels((0, 0, 0), (1, 1, 1), lighting_std=0.1)
    plain = Pixels((0, 0, 0), (1, 1, 1))
    for (one, _), (other, _) in zip(
        loader(folder, "val", pixels=lit), loader(folder, "val", pixels=plain)
    ):
        assert torch.equal(one, other)


def test_padding_fills_up_the_last_batch_with_rows_that_do_not_count(folder):
    padded = list(loader(folder, "val", global_batch_size=4, pad=True))
    plain = list(loader(folder, "val", global_batch_size=4))
    assert [len(images) for images, _ in padded] == [4, 4]
    assert padded[1][1].tolist() == [1, 1, 1, IGNORE_INDEX]
    assert torch.equal(padded[1][0][:3], plain[1][0])
    for rank, counts in ((0, [2, 2]), (1, [2, 1])):
        half = loader(folder, "val", global_batch_size=4, rank=rank, world_size=2)
        assert [len(labels) for _, labels in half] == counts


def threads():
    return len(os.listdir("/proc/self/task"))


def resident():
    """MiB of memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.parametrize("what", ["left", "finished", "validation"])
def test_iterators_free_their_threads_and_memory_at_once(folder, what):
    """Without Python's collector of cycles, which may come late."""
    split = "val" if what == "validation" else "train"

    def use(batches):
        if what == "left":
            next(iter(batches))
        else:
            list(batches)

    gc.collect()
    gc.disable()
    try:
        batches = loader(folder, split, global_batch_size=4)
        for _ in range(3):
            use(batches)
        before, memory = threads(), resident()
        for _ in range(40 if what == "left" else 20):
            use(batches)
        assert threads() <= before and resident() < memory + 60
        batches.close()
        for _ in range(10):
            use(loader(folder, split, global_batch_size=4))
        assert threads() <= before + 2 and resident() < memory + 90
    finally:
        gc.enable()


def in_a_child(work):
    """What `work` says, or how it fails, in a process that is forked from this one."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 30)
    said = os.read(reader, 10_000).decode() if ready else "nothing came"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return said


WHY_NOT = "ValueError: this process was forked from the one that made the loader"


@pytest.mark.parametrize("way", ["a used iterator", "the next epoch", "a new loop"])
def test_a_loader_that_was_used_before_a_fork_says_why_not_in_the_child(folder, way):
    batches = loader(folder)
    iterator = iter(batches)
    next(iterator)
    if way == "the next epoch":
        list(iterator)
    elif way != "a used iterator":
        iterator.close()

    def use():
        if way == "a used iterator":
            return next(iterator)
        return [len(list(batches)) for _ in range(4)]

    said = in_a_child(use)
    assert said.startswith(WHY_NOT), said
    assert len(list(batches)) == 5  # the parent goes on


def test_a_state_that_is_loaded_inside_a_loop_stands(folder):
    batches = loader(folder)
    good = batches.state_dict() | {"step": 2}
    for _ in batches:
        if batches.step == 4:
            batches.load_state_dict(good)
    assert batches.step == 2 and len(list(batches)) == 3


def test_an_iterator_that_is_never_asked_skips_nothing(folder):
    batches = loader(folder)
    batches.load_state_dict(batches.state_dict() | {"step": 3})
    iter(batches)
    assert len(list(batches)) == 2


def test_a_loop_that_fails_leaves_no_threads_behind(folder):
    class Fails(CentreCrop):
        def draw(self, draws, sizes):
            if draws.epoch:
                raise KeyError("a mistake")
            return super().draw(draws, sizes)

    def failing():
        batches = loader(folder, crops=Fails(32, 40))
        with pytest.raises(KeyError, match="a mistake"):
            for _ in range(2):
                list(batches)

    failing()
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/task"))
        failing()
        until = time.monotonic() + 10  # a thread that was asked to end may need a moment
        while len(os.listdir("/proc/self/task")) > before and time.monotonic() < until:
            time.sleep(0.01)
        assert len(os.listdir("/proc/self/task")) <= before
    finally:
        gc.enable()


def test_a_loop_whose_first_batch_fails_can_be_tried_again(folder):
    failing = [True]

    def order(rng, labels):
        if failing[0] and rng.integers(2) >= 0:
            raise RuntimeError("try again")
        return np.arange(len(labels))

    failing[0] = False
    batches = loader(folder, order=order)
    batches.load_state_dict(batches.state_dict() | {"step": 2 * len(batches) + 3})
    failing[0] = True
    with pytest.raises(RuntimeError, match="try again"):
        next(iter(batches))
    failing[0] = False
    next(iter(batches))
    assert batches.step == 2 * len(batches) + 4


@dataclass(frozen=True)
class Greyscale:
    """As docs/extend.md has it; named as the loader's own draw of flips is."""

    share: float = 0.4
    name: str = "flip"

    def draw(self, draws):
        return (draws.uniform("flip", 1)[:, 0] >= self.share).astype(np.float32)

    def apply(self, pixels, drawn):
        return fn.saturation(pixels, saturation=drawn)


def test_an_augmentation_changes_the_rows_that_it_draws_and_no_others(folder):
    """Which are drawn does not depend on the loader's own draws of the same name."""
    grey, plain, grey_rows, flipped_rows = [], [], [], []
    for augmentations, batches in (([Greyscale()], grey), ([], plain)):
        for images, _ in loader(folder, crops=RandomCrop(32, 40), augmentations=augmentations):
            batches.append(images.double())
    own = Draws(0, 0, np.arange(40)).within("flip").uniform("flip", 1)[:, 0] < 0.4
    for changed, image, left in zip(own, torch.cat(grey), torch.cat(plain), strict=True):
        grey_rows.append(bool((image.amax(0) - image.amin(0)).max() <= 2))
        assert grey_rows[-1] == changed and (changed or image.equal(left))
    flipped_rows = Draws(0, 0, np.arange(40)).uniform("flip", 1)[:, 0] < 0.4
    assert 5 < sum(grey_rows) < 30 and (flipped_rows != grey_rows).any()


def test_augmentations_of_validation_images_are_refused(folder):
    with pytest.raises(ValueError, match='augmentations are for split "train"'):
        loader(folder, split="val", augmentations=[Greyscale()])
