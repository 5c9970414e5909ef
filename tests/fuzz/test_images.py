"""Images: what their headers say, and both decoders, of which DALI's may die and is run apart."""

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_dali.pipeline.decode import look
from alexnet_dali.pipeline.prepare import pillow
from alexnet_dali.pipeline.prepare.examine import tasks
from alexnet_dali.pipeline.prepare.sources import Source
from alexnet_dali.pipeline.prepare.workers import Workers
from tests.fuzz.harness import NUM_EXAMPLES, slow, works_or_says
from tests.fuzz.harness import damaged as edited
from tests.prepare.damage import KINDS, damaged, sound_files

MORE = (
    "GIF",
    "TGA",
    "ICO",
    "ICNS",
    "PCX",
    "DDS",
    "SGI",
    "AVIF",
    "MPO",
    "EPS",
    "IM",
    "MSP",
    "XBM",
    "PDF",
)


def of_kind(kind):
    file = io.BytesIO()
    mode = {"MSP": "1", "XBM": "1"}.get(kind, "RGB")
    picture = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))
    exif = Image.Exif()
    exif[274] = 6
    more = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF") else {}
    picture.convert(mode).save(file, kind, **more)
    return file.getvalue()


HEADERS = [
    of_kind(kind) for kind in (*MORE, "JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000")
]


@given(data=edited(*HEADERS))
def test_headers(data):
    works_or_says(lambda: look(np.frombuffer(data, np.uint8)))


@slow
@given(data=edited(*HEADERS))
def test_the_second_decoder(data):
    content = np.frombuffer(data, np.uint8)
    if works_or_says(lambda: look(content)) is None:
        works_or_says(lambda: pillow.decode(content))


@pytest.fixture(scope="module")
def workers():
    with Workers() as workers:
        yield workers


@pytest.mark.skipif(NUM_EXAMPLES < 64, reason="tests/prepare/test_damage.py does")
@settings(max_examples=max(1, NUM_EXAMPLES // 64))
@given(seed=st.integers(0, 2**32))
def test_preparation_outlives_every_file(seed, workers, tmp_path_factory):
    """Of each kind some files; each gets a finding, and a reason or a size."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("images")
    contents = [damaged(rng.choice(sound_files(kind, 1)), rng) for kind in KINDS for _ in range(5)]
    names = [f"{number}.jpg" for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    source = Source.of(folder, names, [0] * len(names))
    results = list(workers.results(tasks(source, range(len(names)), True)))
    found = [result.found for result in results]
    assert sum(len(one.rows) for one in found) == len(names)
    for one in found:
        reasons = one.reasons()
        assert [not reasons.get(place) for place in range(len(one.rows))] == one.usable().tolist()
