"""What strict decoders make of an image: upright by its first EXIF block, or nothing."""

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image, ImageFile


def strict(data: bytes) -> np.ndarray | None:
    """Upright pixels; None where a strict decoder complains."""
    pixels = _strict_jpeg(data) if data[:2] == b"\xff\xd8" else pillows(data)
    if pixels is None:
        return None
    flips = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False)}
    flips |= {7: (3, True), 8: (1, False)}
    turns, mirror = flips.get(orientation_of(data), (0, False))
    return np.rot90(pixels[:, ::-1] if mirror else pixels, turns)


def pillows(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            assert isinstance(image, ImageFile.ImageFile)
            image.info.pop("xmp", None)
            image.load()
            if image.mode.startswith("I"):
                return np.stack([np.asarray(image) >> 8] * 3, -1).astype(np.uint8)
            return np.asarray(image.convert("RGB"))
    except Exception:  # it raises many kinds
        return None


def _strict_jpeg(data: bytes) -> np.ndarray | None:
    """libjpeg's warnings are errors, but that of JFIF's revision, which is not of pixels."""
    place = data.find(b"JFIF\0")
    if place >= 0:
        data = data[: place + 5] + b"\1\1" + data[place + 7 :]
    try:
        if simplejpeg.decode_jpeg_header(data, strict=True)[2] in ("CMYK", "YCCK"):
            simplejpeg.decode_jpeg(data, "CMYK", strict=True)
            return pillows(data)
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        # It knows no CMYK with fewer colours than pixels, and wants the marker that ends a file.
        odd = "subsampling level" in str(error) or "Premature end of JPEG file" in str(error)
        return pillows(data) if odd and b"Adobe" in data[:400] else None


def orientation_of(data: bytes) -> int:
    """By the first EXIF block. 1 for TIFF, which Pillow turns as it loads it."""
    for block in _exif_blocks(data):
        while block.startswith(b"Exif\0\0"):
            block = block[6:]
        end = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4], "")
        try:
            (offset,) = struct.unpack_from(end + "I", block, 4)
            (count,) = struct.unpack_from(end + "H", block, offset)
            for number in range(count if end else 0):
                place = offset + 2 + 12 * number
                tag, kind, many, _ = struct.unpack_from(end + "HHI4s", block, place)
                letter = {1: "B", 3: "H", 4: "I"}.get(kind)
                if tag == 274 and letter and many == 1:  # the first one counts
                    return struct.unpack_from(end + letter, block, place + 8)[0]
        except struct.error:
            pass
        return 1
    return 1


def _exif_blocks(data: bytes) -> list[bytes]:
    found = []
    try:
        if data[:2] == b"\xff\xd8":
            place = 2
            while data[place + 1] != 0xDA:
                length = int.from_bytes(data[place + 2 : place + 4], "big")
                body = data[place + 4 : place + 2 + length]
                if data[place + 1] == 0xE1 and body[:6] == b"Exif\0\0":
                    found.append(body[6:])
                place += 2 + length
        elif data[:4] == b"\x89PNG":
            place = 8
            while place < len(data):
                (length,) = struct.unpack_from(">I", data, place)
                if data[place + 4 : place + 8] == b"eXIf":
                    found.append(data[place + 8 : place + 8 + length])
                place += 12 + length
        elif data[8:16] == b"WEBPVP8X" and data[20] & 8:
            place = 12
            while place < len(data):
                name, length = struct.unpack_from("<4sI", data, place)
                if name == b"EXIF":
                    found.append(data[place + 8 : place + 8 + length])
                place += 8 + length + length % 2
    except (IndexError, struct.error):
        pass
    return found
