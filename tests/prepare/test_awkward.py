"""Unusual and damaged files: each is read correctly, or rejected with its reason."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.feeder import IGNORE_INDEX
from alexnet_dali.pipeline.prepare.store import stored_name
from alexnet_dali.tools import prep_imagenet
from tests.feeding import evaluation_plan, plain, shown
from tests.images import smooth_image, write_class_folders

SIDE = 64
_EXIF_TURNED = Image.Exif()
_EXIF_TURNED[274] = 6


def awkward_images(folder):
    """Write images that a person would call fine.

    All are coloured or grey pictures of 90 x 130 pixels, unless their name says otherwise.
    """
    picture = smooth_image(np.random.default_rng(0), 130, 90)
    grey = np.asarray(picture.convert("L"))
    picture.convert("CMYK").save(folder / "cmyk.JPEG", quality=95)
    picture.convert("L").save(folder / "grey.JPEG", quality=95)
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen.png")
    picture.save(folder / "progressive.JPEG", progressive=True, quality=95)
    for kind in ("PNG", "WEBP", "BMP", "TIFF"):
        picture.save(folder / f"{kind.lower()}.JPEG", kind)
    picture.save(folder / "turned.JPEG", exif=_EXIF_TURNED, quality=95)
    upright = (folder / "progressive.JPEG").read_bytes()
    blocks = [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + turn for turn in (b"\1", b"\6")
    ]
    segments = [b"\xff\xe1\0" + bytes([len(block) + 8]) + block + bytes(6) for block in blocks]
    (folder / "twice.JPEG").write_bytes(upright[:2] + b"".join(segments) + upright[2:])
    picture.crop((0, 0, 1, 1)).save(folder / "one pixel.JPEG")
    picture.resize((60_000, 2)).save(folder / "flat.JPEG", quality=95)
    for name in (
        "two words.JPEG",
        "tab\tin.JPEG",
        "quote'\".JPEG",
        "naïve 图.JPEG",
        "number 7.JPEG",
    ):
        picture.save(folder / name, quality=95)


def awkward_files(folder):
    """Write files that can't be used; returns a part of the reason for each name."""
    good = (folder / "progressive.JPEG").read_bytes()
    plain = (folder / "two words.JPEG").read_bytes()
    contents = {
        "half.JPEG": (plain[: len(plain) // 2], "cut short"),
        "less 200 bytes.JPEG": (plain[:-200], "cut short"),
        "half progressive.JPEG": (good[: len(good) // 2], "cut short"),
        "zero.JPEG": (b"", "empty"),
        "text.JPEG": (b"This is no image.", "not an image"),
        "header.JPEG": (plain[:20], "cut short"),
        "line\nbreak.JPEG": (plain, "line break"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "unreadable.JPEG").symlink_to("unreadable.JPEG")  # root can't read it either
    os.mkfifo(folder / "pipe.JPEG")
    (folder / "directory.JPEG").mkdir()
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {
        "bomb.png": "20000x20000 pixels",
        "unreadable.JPEG": "symbolic links",
        "pipe.JPEG": "regular",
    }


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The folder with all these files, and the reasons for the names that must be rejected."""
    folder = tmp_path_factory.mktemp("pack")
    write_class_folders(folder, {"a": 1, "b": 3})
    awkward_images(folder / "a")
    reasons = awkward_files(folder / "a")
    smooth_image(np.random.default_rng(1), 130, 90).save(folder / "a/gif.JPEG", "GIF")
    return folder, reasons


def prep(pack, out, *more):
    prep_imagenet.main(["--train", str(pack), "--val", str(pack), "--out", str(out), *more])
    return Dataset.open(out)


def told(path):
    """The remarks in a list such as rejected.txt, by file name."""
    lines = path.read_text().splitlines()
    return {line.split("\t")[0].split("/a/")[-1]: line.split("\t")[1] for line in lines}


def central_squares(images):
    batches = shown(images, evaluation_plan(images, SIDE, 5), plain(SIDE))
    return torch.cat([batch.images[batch.labels != IGNORE_INDEX] for batch in batches]).numpy()


def pillows(path):
    """The central square by Pillow: upright, in RGB, with the upper eight of 16 bits."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box), np.float64
    ).transpose(2, 0, 1)


def test_read_in_place_each_file_is_right_or_rejected_with_its_reason(pack, tmp_path):
    folder, reasons = pack
    dataset = prep(folder, tmp_path / "out")
    rejected = told(tmp_path / "out/rejected.txt")
    converted = {"gif.JPEG", "twice.JPEG"}
    assert rejected.keys() == {name.replace("\n", "\\n") for name in reasons} | converted
    for name, reason in reasons.items():
        assert reason in rejected[name.replace("\n", "\\n")]
    assert "--resize" in rejected["gif.JPEG"]
    assert "more than one EXIF block" in rejected["twice.JPEG"]
    for index, square in enumerate(central_squares(dataset.val)):
        difference = np.abs(square - pillows(dataset.val.path(index)))
        assert difference.max() <= 4 and difference.mean() < 0.5, dataset.val.path(index)
    assert len(dataset.train) == 20


@pytest.mark.parametrize("form", [[], ["--shards"]], ids=["loose", "shards"])
def test_the_store_converts_unusual_files_and_lists_them(pack, tmp_path, form):
    folder, reasons = pack
    dataset = prep(folder, tmp_path / "out", "--resize", str(SIDE), "--quality", "98", *form)
    rejected = told(tmp_path / "out/rejected.txt")
    assert rejected.keys() == {name.replace("\n", "\\n") for name in reasons} | {"flat.JPEG"}
    assert "JPEG has 65500 at most" in rejected["flat.JPEG"]
    converted = told(tmp_path / "out/converted.txt")
    assert converted["cmyk.JPEG"] == "CMYK" and converted["grey.JPEG"] == "greyscale"
    assert converted["png.JPEG"] == "a PNG file" and converted["webp.JPEG"] == "a WEBP file"
    assert (
        converted["gif.JPEG"] == "a GIF file, palette"
        and converted["turned.JPEG"] == "turned by EXIF"
    )
    assert "more than one EXIF block" in converted["twice.JPEG"]
    assert converted["sixteen.png"] == "16 bits" and "progressive.JPEG" not in converted
    originals = {stored_name(path.name): path for path in (folder / "a").iterdir()}
    for index, square in enumerate(central_squares(dataset.val)):
        stored = Image.open(io.BytesIO(dataset.val.content(index).tobytes()))
        assert stored.format == "JPEG" and stored.mode == "RGB" and not stored.getexif()
        head, _, name = dataset.val.path(index).rpartition("/")
        if head.endswith("/a"):
            assert np.abs(square - pillows(originals[name])).mean() < 4, name
