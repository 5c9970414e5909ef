"""Decode files whole, with DALI's CPU decoder, which training uses on a CPU; never on a GPU."""

import io
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from alexnet_dali.pipeline import graph
from alexnet_dali.pipeline.system.faults import ResourceError, gist, resource_error

MAX_PIXELS = 178_956_970
"""Larger images (half a gigabyte decoded) are rejected by their header, before they can fill the
memory.
"""

MOST_TOGETHER = 64
"""Files that are decoded in one batch at most."""

_MAX_TEXT = 1 << 26  # a sound PNG picture may come with megabytes of text
_LOCK = threading.RLock()
_ORIENTATION = 274  # EXIF
_ON_ITS_SIDE = (5, 6, 7, 8)
_LONGEST_SIDE = 65_500  # of a JPEG file
_WEBP_HAS_EXIF = 8
_VERDICT = re.compile(
    r"Failed to decode sample|nvImageCodec failure: '#[34]'|Invalid sample_type"
    r"|NVJPEG_STATUS_(INVALID_PARAMETER|BAD_JPEG|JPEG_NOT_SUPPORTED|INCOMPLETE_BITSTREAM)"
    r"|nvJPEG error \(([234]|10)\)"
)
"""What DALI says of an image: damaged, or of a kind that it does not know (nvImageCodec's statuses
3 and 4, and those of nvJPEG).
"""


_ALIKE = {
    "JPEG": {"L", "RGB", "CMYK"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"},
    "WEBP": {"RGB", "RGBA"},
    "BMP": {"1", "L", "P", "RGB"},
    "TIFF": {"L", "RGB", "RGBA", "CMYK", "I;16"},
    "PPM": {"1", "L", "RGB"},
    "JPEG2000": {"L", "RGB", "RGBA", "I;16"},
}
"""Kinds, by Pillow's names, that DALI decodes to the pixels that Pillow and others see."""

_DRAWINGS = ("EPS", "WMF", "PDF")
"""Pillow would start other programs to draw them."""

_POINTER = b"version https://git-lfs"
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


class Undecodable(ValueError):
    """DALI's decoder says that the content is no image that it can decode, or damaged."""


class Header(NamedTuple):
    """What a file's header says: format and mode by Pillow's names, and EXIF orientation.

    Orientation 1 is upright; height and width are those of the upright image. `unlike` says of what
    kind the file is if DALI does not decode that kind, or not as others do; else it is empty.
    Decoders read EXIF in different ways; not all of them take the same orientation from it.
    """

    format: str
    mode: str
    orientation: int
    height: int
    width: int
    unlike: str
    has_exif: bool

    @property
    def num_pixels(self) -> int:
        """Pixels in all."""
        return self.height * self.width

    def is_plain_jpeg(self) -> bool:
        """Whether it is of the kind that nearly all images of data sets are."""
        if self.unlike or self.has_exif:
            return False
        return self.format == "JPEG" and self.mode in ("L", "RGB")


@contextmanager
def pillow_limits() -> Iterator[None]:
    """Within, Pillow opens what DALI would: MAX_PIXELS is the only limit, and it may know HEIC.

    Whoever imports this package finds Pillow's own limits as they were.
    """
    _know_heic()
    with _LOCK:
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _MAX_TEXT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def formats_by_suffix() -> dict[str, str]:
    """Pillow's names of the formats of images, by the ends of files' names: `.jpg`: JPEG."""
    _know_heic()
    return Image.registered_extensions()


@lru_cache(maxsize=1)
def _know_heic() -> None:
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def look(data: NDArray[np.uint8]) -> Header:
    """Read the header alone; ValueError where it is no image, or one too large to decode."""
    try:
        with pillow_limits(), Image.open(io.BytesIO(data.tobytes())) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{width}x{height} pixels; {MAX_PIXELS} in all is the most that is taken"
                )
            if image.format in _DRAWINGS:
                raise ValueError(f"{a_file(image.format or '')}, which is a drawing")
            if image.mode in ("F", "I") and image.format not in ("PNG", "PPM"):
                raise ValueError("its pixels are numbers of 32 bits, without a range")
            # A JPEG file with more pictures behind it
            kind = "JPEG" if image.format == "MPO" else image.format or ""
            unlike = _unlike(image, kind) or _exif_out_of_reach(data, kind)
            turn = orientation(image)
            if turn in _ON_ITS_SIDE and kind != "TIFF":  # whose size is the upright one
                width, height = height, width
            return Header(kind, image.mode, turn, height, width, unlike, _num_exif(image) > 0)
    except UnidentifiedImageError:
        if data[4:8].tobytes() == b"ftyp" and data[8:12].tobytes() in _HEIF:
            raise ValueError(
                "a HEIC file; with pip install 'alexnet-dali[heic]', --resize would store it as "
                "JPEG"
            ) from None
        if data[: len(_POINTER)].tobytes() == _POINTER:
            raise ValueError("a pointer of Git LFS, not the file itself: git lfs pull") from None
        raise ValueError("not an image, or cut short in its header") from None
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"damaged in its header ({error})") from None


def decode(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One file's content as RGB [height, width, 3], upright, as training will see it.

    ValueError where it is no image that DALI decodes, ResourceError where memory or the decoder
    itself fails.
    """
    header = look(data)
    if header.unlike:
        raise ValueError(
            f"{header.unlike}, which DALI does not decode as others do; --resize would store it as "
            "JPEG"
        )
    return decode_together([data])[0]


def decode_together(contents: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """`decode` for up to MOST_TOGETHER files, which is cheaper than one by one.

    They must be of kinds that DALI knows: see Header.unlike. Undecodable does not say which of them
    it means. What a file does alone is that file's, unless a sound image fails, too.
    """
    try:
        return _decoded(contents)
    except (RuntimeError, MemoryError) as error:
        if of_an_image(error):
            raise Undecodable(gist(error)) from error
        fault = resource_error(error)
        alone = fault is None and len(contents) == 1
        if alone and _fails(contents[0]) and not _fails(sound_image(64, 64)):
            raise Undecodable(gist(error)) from error
        raise fault or ResourceError(f"DALI's decoder failed ({gist(error)})") from error


def of_an_image(error: BaseException) -> bool:
    """Whether DALI says something of an image: nothing else is to blame."""
    return bool(_VERDICT.search(str(error)))


def sound_image(height: int, width: int) -> NDArray[np.uint8]:
    """The content of a file that every decoder decodes which is well itself."""
    kind = "JPEG" if max(height, width) <= _LONGEST_SIDE else "PNG"
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return np.frombuffer(file.getvalue(), np.uint8)


def _decoded(contents: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    pipeline = _pipeline()
    try:
        pipeline.feed_input(graph.FILES, list(contents))
        images, shapes = pipeline.run()
        pixels = [np.asarray(images[index]) for index in range(len(contents))]
    except (RuntimeError, MemoryError):
        _pipeline.cache_clear()  # a pipeline that has failed once does not run again
        raise
    for one, shape in zip(pixels, np.asarray(shapes.as_tensor()).tolist(), strict=True):
        if list(one.shape[:2]) != shape[:2]:
            raise Undecodable(
                f"DALI reads {shape[1]}x{shape[0]} pixels in its header, and decodes "
                f"{one.shape[1]}x{one.shape[0]}"
            )
    return pixels


def _fails(content: NDArray[np.uint8]) -> bool:
    """Whether a decoder fails on one file, one that has not met it before."""
    try:
        _decoded([content])
    except RuntimeError:
        return True
    return False


@lru_cache(maxsize=1)
def _pipeline() -> graph.Pipeline:
    return graph.build_decoder(MOST_TOGETHER)


def _unlike(image: ImageFile.ImageFile, kind: str) -> str:
    """What the file is, if DALI does not decode its kind as others do."""
    codec, raw_mode = _coding(image)
    if image.mode not in _ALIKE.get(kind, ()):
        return a_file(kind) + (f" in mode {image.mode}" if kind in _ALIKE else "")
    if kind == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        return "a CMYK file without Adobe's marker"
    if kind == "JPEG" and _num_exif(image) > 1:
        return "a JPEG file with more than one EXIF block, of which decoders take different ones"
    if kind == "BMP" and raw_mode.startswith("BGR;"):
        return "a BMP file of 16 bits a pixel"
    if kind == "PPM" and codec != "raw":
        return "a PNM file in text, or with a maximum other than 255"
    return ""


def a_file(kind: str) -> str:
    """`a PNG file`, `an AVIF file`."""
    return f"{'an' if kind[:1] in 'AEFILMNORSX' else 'a'} {kind} file"


def _coding(image: ImageFile.ImageFile) -> tuple[str, str]:
    """How the pixels are coded, by Pillow's names: the codec, and the order of bits."""
    if not image.tile:
        return "", ""
    codec, _, _, details = image.tile[0]
    raw_mode = details[0] if isinstance(details, tuple) and details else details
    return codec, raw_mode if isinstance(raw_mode, str) else ""


def _num_exif(image: ImageFile.ImageFile) -> int:
    segments = getattr(image, "applist", [])
    return sum(kind == "APP1" and data[:6] == b"Exif\0\0" for kind, data in segments)


def _exif_out_of_reach(data: NDArray[np.uint8], kind: str) -> str:
    """DALI does not know that a WebP file fills up chunks of odd length, and misses the next."""
    content = data.tobytes() if kind == "WEBP" else b""
    if content[12:16] != b"VP8X" or not content[20] & _WEBP_HAS_EXIF:
        return ""
    place = 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        if name == b"EXIF":
            return ""
        if length % 2:
            break
        place += 8 + length
    return "a WebP file whose EXIF is not where DALI looks for it"


def orientation(image: Image.Image) -> int:
    """By EXIF, 1 to 8. Pillow's `getexif` would ask XMP and texts, too; browsers and DALI don't."""
    try:
        tags = getattr(image, "tag_v2", None)  # TIFF
        if tags is None:
            tags = Image.Exif()
            tags.load(image.info.get("exif", b""))
        found = tags.get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds for damaged EXIF
        return 1
    return int(found) if found in range(1, 9) else 1
