"""What happens to image files after they were prepared."""

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from alexnet_dali.pipeline.image_list import ImageList


def _resized(content: bytes, factor: float) -> bytes:
    image = Image.open(BytesIO(content)).convert("RGB")
    out = BytesIO()
    image.resize((int(image.width * factor), int(image.height * factor))).save(out, "JPEG")
    return out.getvalue()


def _noise(content: bytes, kept: int, length: int) -> bytes:
    return content[:kept] + random.Random(len(content)).randbytes(length - kept)


def _padded(content: bytes, length: int) -> bytes:
    return (content + bytes(length))[: max(length, len(content))]


def _turned_twice(content: bytes) -> bytes:
    """With two EXIF blocks, of which one says that the image lies on its side."""
    exif = Image.Exif()
    blocks = b""
    for orientation in (6, 1):
        exif[274] = orientation
        block = exif.tobytes()
        blocks += b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    return content[:2] + blocks + content[2:]


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "text": lambda content: b"no picture\n" * 50,
    "noise": lambda content: _noise(content, 0, len(content) + 7),
    "noise of the right length": lambda content: _noise(content, 0, len(content)),
    "noise behind a JPEG's first bytes": lambda content: _noise(content, 20, len(content)),
    "zeros of the right length": lambda content: bytes(len(content)),
    "stump": lambda content: content[: len(content) // 2],
    "header alone": lambda content: content[:200],
    "empty": lambda content: b"",
    "smaller": lambda content: _resized(content, 0.5),
    "smaller, of the right length": lambda content: _padded(_resized(content, 0.5), len(content)),
    "larger": lambda content: _resized(content, 2),
    "two EXIF blocks": _turned_twice,
    "gone": None,
}

_LENGTH = r"it has \d+ bytes, and had \d+ when"
_SIZE = r"it is \d+x\d+ pixels, and was \d+x\d+ when"
_NO_IMAGE = "not an image, or cut short in its header|damaged in its header|DALI finds no image"
REASONS = {
    "noise of the right length": _NO_IMAGE,
    "noise behind a JPEG's first bytes": _NO_IMAGE,
    "zeros of the right length": _NO_IMAGE,
    "smaller, of the right length": _SIZE,
    "gone": "No such file",
}
"""What is said of an image of its own file; of other kinds, that the length differs."""


def reason(kind: str) -> str:
    """A regular expression of what is said of a file that was damaged so."""
    return REASONS.get(kind, _LENGTH)


def damage(images: ImageList, index: int, kind: str) -> None:
    """Damage the file of an image; one in an archive as far as it keeps its place."""
    change = DAMAGE[kind]
    if images.spans is not None:
        archive, offset, length = images.archive(index)
        assert change is not None
        with open(archive, "r+b") as file:
            file.seek(offset)
            content = change(file.read(length))
            file.seek(offset)
            file.write((content + bytes(length))[:length])
        return
    path = Path(images.path(index))
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
