"""No damaged file is accepted in silence: what preparation accepts, a strict decoder sees alike."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.decode import look
from alexnet_dali.tools import prep_imagenet
from tests.images import smooth_image, write_class_folders
from tests.prepare.damage import opinions, our_verdicts, write_damaged_files


def test_what_is_accepted_has_the_pixels_of_a_strict_decoder(tmp_path):
    """Of each kind 60 files, three of them sound."""
    names = write_damaged_files(tmp_path, 60)
    verdicts = our_verdicts(tmp_path, names)
    others = opinions(tmp_path, names, verdicts)
    for first in range(0, len(names), 60):
        assert verdicts[first : first + 3] == [""] * 3, names[first]
        assert sum(map(bool, verdicts[first : first + 60])) > 5
    for name, verdict, opinion in zip(names, verdicts, others, strict=True):
        assert verdict or opinion.agrees(), name


def test_a_marker_in_the_scan_is_damage_although_the_decoder_goes_on(tmp_path):
    """Most of the picture is grey then, and libjpeg only warns."""
    file = io.BytesIO()
    smooth_image(np.random.default_rng(0), 200, 300).save(file, "JPEG", quality=90)
    data = bytearray(file.getvalue())
    place = len(data) * 2 // 5
    data[place : place + 2] = b"\xff\x57"
    (tmp_path / "0.jpg").write_bytes(data)
    (verdict,) = our_verdicts(tmp_path, ["0.jpg"])
    assert verdict.startswith("damaged: the decoder says 'Corrupt JPEG data")


def bmp_of_16_bits(pixels):
    """Five bits a channel, rows from the bottom up, each filled up to four bytes."""
    red, green, blue = (pixels[::-1].astype(np.uint16) >> 3).transpose(2, 0, 1)
    rows = (red << 10 | green << 5 | blue).astype("<u2")
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    header = struct.pack("<IiiHHIIiiII", 40, pixels.shape[1], pixels.shape[0], 1, 16, *[0] * 6)
    return b"BM" + struct.pack("<IHHI", 54 + rows.nbytes, 0, 0, 54) + header + rows.tobytes()


def odd_but_sound(folder):
    """(name, what it should look like) of files that DALI lacks or sees otherwise than others."""
    picture = smooth_image(np.random.default_rng(0), 90, 130)
    pillow_heif.register_heif_opener()  # to write one
    for suffix in ("gif", "tga", "avif", "heic"):
        picture.save(folder / f"a.{suffix}")
    lab = ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), lab, outputMode="LAB").save(
        folder / "lab.tiff"
    )
    small = (np.asarray(picture) // 3).astype(np.uint8)
    (folder / "maximum.ppm").write_bytes(b"P6\n130 90\n85\n" + small.tobytes())
    (folder / "sixteen.bmp").write_bytes(bmp_of_16_bits(np.asarray(picture)))
    file = io.BytesIO()
    picture.convert("CMYK").save(file, "JPEG", quality=95)
    data = file.getvalue()
    adobe = data.index(b"\xff\xee")
    length = int.from_bytes(data[adobe + 2 : adobe + 4], "big")
    # Without Adobe's marker nobody inverts, so that the file must hold the opposite.
    (folder / "cmyk.jpg").write_bytes(data[:adobe] + data[adobe + 2 + length :])
    for name in (
        "a.gif",
        "a.tga",
        "a.avif",
        "a.heic",
        "sixteen.bmp",
        "lab.tiff",
        "maximum.ppm",
        "cmyk.jpg",
    ):
        with Image.open(folder / name) as image:
            yield name, np.asarray(image.convert("RGB"), np.float64)


def test_kinds_that_dali_lacks_or_sees_otherwise_are_converted_by_resize_alone(tmp_path):
    write_class_folders(tmp_path / "train", {"a": 2, "b": 2})
    expected = dict(odd_but_sound(tmp_path / "train/a"))
    common = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "train"), "--out"]
    prep_imagenet.main([*common, str(tmp_path / "in_place")])
    rejected = (tmp_path / "in_place/rejected.txt").read_text()
    for name in expected:
        assert f"/a/{name}\t" in rejected
    assert rejected.count("which DALI does not decode as others do; --resize would store it") == 16
    prep_imagenet.main([*common, str(tmp_path / "stored"), "--resize", "90", "--quality", "98"])
    dataset = Dataset.open(tmp_path / "stored")
    assert len(dataset.train) == 12 and not (tmp_path / "stored/rejected.txt").read_text()
    converted = (tmp_path / "stored/converted.txt").read_text()
    stored = {dataset.val.name(i): dataset.val.content(i).tobytes() for i in range(12)}
    for name, pixels in expected.items():
        assert f"/a/{name}\t" in converted
        path = name.replace(".", "_") if not name.endswith(".jpg") else name.removesuffix(".jpg")
        found = np.asarray(Image.open(io.BytesIO(stored[f"a/{path}.jpg"])), np.float64)
        assert np.abs(found - pixels).mean() < 4, name


def test_long_texts_in_a_sound_png_do_no_harm(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "long " * 700_000, zip=True)
    smooth_image(np.random.default_rng(0), 90, 130).save(tmp_path / "0.png", pnginfo=info)
    assert our_verdicts(tmp_path, ["0.png"]) == [""]


def test_a_heic_file_names_the_plugin_that_it_needs(monkeypatch):
    def open_none(file):
        raise UnidentifiedImageError("cannot identify image file")

    monkeypatch.setattr(Image, "open", open_none)
    data = np.frombuffer(b"\0\0\0\x18ftypheic" + bytes(20), np.uint8)
    with pytest.raises(ValueError, match=r"HEIC file; with pip install 'alexnet-dali\[heic\]'"):
        look(data)


def test_what_a_decoder_says_of_one_file_is_not_held_against_the_next(tmp_path):
    """A fax is decoded by Pillow, whose libtiff prints what is wrong and goes on."""
    write_class_folders(tmp_path / "train", {"a": 3, "b": 3})
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    fax = Image.fromarray(rng.integers(0, 2, (90, 130), dtype=np.uint8) * 255).convert("1")
    fax.save(file, "TIFF", compression="group4")
    data = bytearray(file.getvalue())
    tags = Image.open(io.BytesIO(bytes(data))).tag_v2
    data[tags[273][0] + tags[279][0] // 2] ^= 0x10
    (tmp_path / "train/a/00.tif").write_bytes(data)
    command = ["--train", str(tmp_path / "train"), "--hold-out", "0.4", "--resize", "64", "--out"]
    prep_imagenet.main([*command, str(tmp_path / "out")])
    (line,) = (tmp_path / "out/rejected.txt").read_text().splitlines()
    assert line.split("\t")[0].endswith("a/00.tif") and "damaged: the decoder says" in line


def test_an_odd_error_of_a_decoder_rejects_one_file(tmp_path):
    """Pillow raises NotImplementedError for a DDS file of an unknown kind."""
    file = io.BytesIO()
    smooth_image(np.random.default_rng(0), 64, 64).save(file, "DDS")
    data = bytearray(file.getvalue())
    data[80:84] = bytes(4)
    (tmp_path / "0.dds").write_bytes(data)
    (verdict,) = our_verdicts(tmp_path, ["0.dds"])
    assert "damaged in its header" in verdict
