"""Metadata that decoders read in different ways: the picture is upright as in Pillow, or rejected.

Each case is of a kind that people have reported; its origin stands beside it.
"""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alexnet_dali.pipeline import decode
from alexnet_dali.pipeline.prepare import pillow
from alexnet_dali.pipeline.prepare.workers import Workers
from alexnet_dali.pipeline.system.faults import ResourceError
from tests.fuzz.odd_images import chunk, exif, plain_tiff, riff, saved, segment, xmp
from tests.fuzz.pixels import SIDE, STORE, verdicts
from tests.images import smooth_image

PIXELS = np.asarray(smooth_image(np.random.default_rng(3), 60, 90))
TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, 3),
    7: np.rot90(PIXELS[:, ::-1], 3),
    8: np.rot90(PIXELS),
}
JPEG = saved(PIXELS, "JPEG", quality=95)
PNG = saved(PIXELS, "PNG")
WEBP = next(  # of even length: an odd one is a case of its own
    data for data in (saved(PIXELS, "WEBP", quality=q) for q in range(90, 101)) if data[16] % 2 == 0
)
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg(*blocks):
    """With these APP1 segments."""
    return JPEG[:2] + b"".join(segment(0xE1, block) for block in blocks) + JPEG[2:]


def png(*chunks, late=False):
    place = len(PNG) - 12 if late else 33
    return PNG[:place] + b"".join(chunks) + PNG[place:]


def webp(*chunks, flags=8, between=()):
    """With an extended header; chunks `between` it and EXIF."""
    size = struct.pack("<I", 89)[:3] + struct.pack("<I", 59)[:3]
    length = int.from_bytes(WEBP[16:20], "little")
    picture = (WEBP[12:16], WEBP[20 : 20 + length])
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + size), *between, picture, *chunks)


def raw_profile(orientation):
    text = b"\nexif\n%8d\n%s\n" % (len(exif(orientation)), exif(orientation).hex().encode())
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


APP1 = b"Exif\0\0"
NOT_FOUND = "a WebP file whose EXIF is not where DALI looks for it"
OTHERWISE = "DALI turns it otherwise than Pillow"
RESOLUTION = exif(1)[:8] + struct.pack("<HHHIIIII", 1, 282, 5, 1, 26, 0, 72, 1)
"""EXIF with a resolution alone: Pillow looks at it as it opens the file."""
MINUS = struct.pack("<HHII", 33434, 5, 1, 8)
"""An exposure time that stands where other numbers do: Pillow can read it, and not write it."""

CASES = {
    # (content, orientation that is right, why it is rejected where it lies, or nothing)
    "two blocks, 1 and 6": (jpeg(APP1 + exif(1), APP1 + exif(6)), 1, "more than one EXIF block"),
    "two blocks, 6 and 3": (jpeg(APP1 + exif(6), APP1 + exif(3)), 6, "more than one EXIF block"),
    "two blocks, 6 and 1": (jpeg(APP1 + exif(6), APP1 + exif(1)), 6, "more than one EXIF block"),
    **{f"JPEG, {k}": (jpeg(APP1 + exif(k, "MM")), k, "") for k in range(1, 9)},
    **{f"JPEG, {k}": (jpeg(APP1 + exif(k)), 1, "") for k in (0, 9, 255)},
    "prefix twice (Pillow 8348)": (jpeg(APP1 + APP1 + exif(6)), 6, OTHERWISE),
    "XMP alone": (jpeg(XMP + xmp(6)), 1, ""),
    "XMP beside EXIF without a turn (unsloth 10553)": (
        jpeg(APP1 + RESOLUTION, XMP + xmp(6)),
        1,
        "",
    ),
    "EXIF that can't be written again (Pillow 8965)": (jpeg(APP1 + exif(6, more=MINUS)), 6, ""),
    "EXIF that is cut (Neural-IMage-Assessment 38)": (jpeg(APP1 + exif(6)[:14]), 1, ""),
    "a long number, from the other end": (jpeg(APP1 + exif(6, "MM", 4)), 6, OTHERWISE),
    "directories in a circle (brendan-duncan/image 605)": (
        jpeg(APP1 + exif(3)[:-4] + b"\x08\0\0\0"),
        3,
        "",
    ),
    "PNG": (png(chunk(b"eXIf", exif(6))), 6, ""),
    "PNG, behind the pixels": (png(chunk(b"eXIf", exif(8)), late=True), 8, ""),
    "PNG, in a text (w3c/png 310)": (png(raw_profile(6)), 1, ""),
    "PNG, XMP": (png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))), 1, ""),
    "WebP": (webp((b"EXIF", exif(6))), 6, ""),
    "WebP, with JPEG's prefix (Pillow 6580)": (webp((b"EXIF", APP1 + exif(6))), 6, OTHERWISE),
    "WebP, a profile of odd length": (
        webp((b"EXIF", exif(6)), flags=40, between=[(b"ICCP", b"p" * 7)]),
        6,
        NOT_FOUND,
    ),
    "WebP, a flag alone": (webp(), 1, NOT_FOUND),
    "WebP, XMP": (webp((b"XMP ", xmp(6)), flags=4), 1, ""),
    **{
        f"TIFF, {k} (xarray-spatial 1540)": (plain_tiff(PIXELS, ">", k), k, "") for k in range(1, 9)
    },
    "TIFF, tiles": (plain_tiff(PIXELS, tile=32), 1, ""),
    "TIFF, planes apart (opencv 29567)": (plain_tiff(PIXELS, "<", planar=True), 1, ""),
    "WebP, a picture of odd length": (
        webp((b"EXIF", exif(6)), between=[(b"ODD!", b"p")]),
        6,
        NOT_FOUND,
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Why each case is rejected in place, and in the store; and what is stored."""
    folder = tmp_path_factory.mktemp("cases")
    names = [str(number) for number in range(len(CASES))]
    for name, (content, _, _) in zip(names, CASES.values(), strict=True):
        (folder / name).write_bytes(content)
    with Workers() as workers:
        in_place, _ = verdicts(workers, folder, names, None)
        converted, images = verdicts(workers, folder, names, STORE)
    stored = [images.get(name) for name in names]
    return dict(zip(CASES, zip(in_place, converted, stored, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_upright_as_in_pillow_or_rejected_where_it_lies(case, found):
    content, orientation, expected = CASES[case]
    in_place, converted, image = found[case]
    assert bool(re.search(expected, in_place)) if expected else not in_place, in_place
    right = TURNED[orientation]
    if not in_place:
        pixels = decode.decode(np.frombuffer(content, np.uint8))
        assert pixels.shape == right.shape and np.abs(pixels.astype(int) - right).max() < 30
        if "behind" not in case:
            header = decode.look(np.frombuffer(content, np.uint8))
            assert header.orientation == orientation
            assert (header.height, header.width) == right.shape[:2]
    assert not converted
    stored = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), float)
    height, width = right.shape[:2]
    shape = (width * SIDE // height, SIDE) if height < width else (SIDE, height * SIDE // width)
    expected = np.asarray(Image.fromarray(right).resize(shape, Image.Resampling.BILINEAR))
    assert stored.shape == expected.shape and np.abs(stored - expected).mean() < 6


@pytest.mark.parametrize(
    "content",
    [
        saved(PIXELS, "PNG", "P", transparency=7),  # torchcodec 1731
        plain_tiff(PIXELS, grey=0),  # opencv 9550
        plain_tiff(PIXELS, grey=1, tile=16),
        saved(PIXELS, "TIFF", "RGBA"),
    ],
    ids=["palette with transparency", "0 is white", "grey tiles", "alpha"],
)
def test_pixels_of_odd_layouts_are_those_of_pillow(content):
    pixels = decode.decode(np.frombuffer(content, np.uint8))
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_sound_files_that_dali_can_not_read_are_rejected_and_stop_nothing(tmp_path):
    """Pages in a circle (image-tiff 31), and tiles that are turned."""
    contents = [plain_tiff(PIXELS, circle=True), plain_tiff(PIXELS, "<", 6, tile=32), JPEG]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    with Workers() as workers:
        reasons, _ = verdicts(workers, tmp_path, ["0", "1", "2"], None)
    assert "cyclic structure" in reasons[0] and "to other pixels" in reasons[1] and not reasons[2]


def test_a_damaged_scan_is_damage_in_files_that_are_converted_too(tmp_path):
    """Pillow does not pass on what libjpeg says of it."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    data = bytearray(file.getvalue())
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd7"
    blocks = segment(0xE1, APP1 + exif(6)) + segment(0xE1, APP1 + exif(1))
    (tmp_path / "0").write_bytes(data[:2] + blocks + data[2:])
    with Workers() as workers:
        (reason,), _ = verdicts(workers, tmp_path, ["0"], STORE)
    assert reason.startswith("damaged: the decoder says 'Corrupt JPEG data")


def test_what_a_file_does_alone_is_its_own_and_what_a_sound_one_does_is_the_machines(monkeypatch):
    """A status that nobody knows, as of nvImageCodec's next version."""
    bad, right = np.frombuffer(jpeg(APP1 + exif(1)), np.uint8), decode._decoded

    def fails_on(which):
        def decoded(contents):
            if any(which(one) for one in contents):
                raise RuntimeError("nvImageCodec failure: '#99'")
            return right(contents)

        monkeypatch.setattr(decode, "_decoded", decoded)

    fails_on(lambda content: content is bad)
    with pytest.raises(decode.Undecodable, match="#99"):
        decode.decode_together([bad])
    fails_on(lambda content: True)
    with pytest.raises(ResourceError, match=r"DALI's decoder failed .*#99"):
        decode.decode_together([bad])


def test_a_shape_that_differs_from_the_headers_is_damage(monkeypatch):
    """As of a decoder that turns an image by other metadata than its header's reader."""
    content = np.frombuffer(JPEG, np.uint8)
    pipeline = decode._pipeline()
    run = pipeline.run

    def turned():
        pixels, shapes = run()
        return [np.asarray(pixels[0]).transpose(1, 0, 2)], shapes

    monkeypatch.setattr(pipeline, "run", turned)
    with pytest.raises(decode.Undecodable, match=r"reads 90x60 pixels .* decodes 60x90"):
        decode.decode_together([content])


def test_a_second_opinion_knows_no_turn_but_that_of_exif():
    for case in ("XMP alone", "PNG, XMP", "PNG, in a text (w3c/png 310)", "WebP, XMP"):
        pixels = pillow.decode(np.frombuffer(CASES[case][0], np.uint8))
        assert pixels.shape == PIXELS.shape, case
