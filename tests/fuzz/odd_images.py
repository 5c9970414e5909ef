"""Images of every kind that is accepted, with odd metadata, damaged, or both."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.prepare.damage import damaged

# ---- metadata


def exif(orientation: int, order: str = "II", kind: int = 3, more: bytes = b"") -> bytes:
    """A TIFF header and one directory, with a maker and an orientation of a `kind` of number."""
    end = "<" if order == "II" else ">"
    size = {1: "B3x", 3: "H2x", 4: "I"}[kind]
    value = struct.pack(end + size, orientation)
    maker = struct.pack(end + "HHI4s", 271, 2, 4, b"Abc\0")
    tag = struct.pack(end + "HHI", 274, kind, 1) + value
    count = 2 + len(more) // 12
    head = order.encode() + struct.pack(end + "HI", 42, 8)
    return head + struct.pack(end + "H", count) + maker + tag + more + bytes(4)


def odd_exif(rng: random.Random) -> bytes:
    """Mostly sound; some blocks that readers understand in different ways."""
    orientation = rng.choice([1, 1, 2, 3, 4, 5, 6, 6, 8, 7, 0, 9, 255, 256, 65535])
    order = rng.choice(["II", "MM"])
    block = exif(orientation % 65536, order)
    how = rng.randrange(12)
    if how == 0:
        return exif(orientation, order, 4)
    if how == 1:  # the same tag again
        end = "<" if order == "II" else ">"
        return exif(orientation, order, 3, struct.pack(end + "HHIHH", 274, 3, 1, 3, 0))
    if how == 2:
        return block[: rng.randrange(len(block))]
    if how == 3:  # the next directory is this one
        return block[:-4] + (b"\x08\0\0\0" if order == "II" else b"\0\0\0\x08")
    if how == 4:
        return b"Exif\0\0" + block
    if how == 5:
        data = bytearray(block)
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if how == 6:
        return rng.randbytes(40)
    return block


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'tiff:Orientation="%d"/></x:xmpmeta>' % orientation
    )


def segment(marker: int, body: bytes) -> bytes:
    """One of a JPEG file."""
    return bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, rng: random.Random) -> bytes:
    """A JPEG file with EXIF, XMP and others, in front of its own segments or among them."""
    blocks = [segment(0xE1, b"Exif\0\0" + odd_exif(rng)) for _ in range(rng.choice([1, 1, 1, 2]))]
    if rng.random() < 0.2:
        xml = xmp(rng.choice([3, 6]))
        blocks.append(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xml))
    if rng.random() < 0.2:
        blocks.append(segment(0xE2, b"ICC_PROFILE\0\1\1" + rng.randbytes(rng.randrange(1, 300))))
    if rng.random() < 0.1:
        blocks = blocks[1:]
    rng.shuffle(blocks)
    place = 2
    for _ in range(rng.choice([0, 0, 1, 2, 3, 4])):
        if jpeg[place + 1] == 0xDA:
            break
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return jpeg[:place] + b"".join(blocks) + jpeg[place:]


def chunk(name: bytes, data: bytes) -> bytes:
    """One of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def with_chunks(png: bytes, rng: random.Random) -> bytes:
    """A PNG file with EXIF before its pixels or behind them, and texts that speak of turns."""
    blocks = [chunk(b"eXIf", odd_exif(rng))]
    if rng.random() < 0.2:
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)
        blocks.append(chunk(b"iTXt", text))
    if rng.random() < 0.2:
        raw = b"Exif\0\0" + exif(6)
        text = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
        blocks.append(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))
    if rng.random() < 0.2:
        blocks.append(chunk(b"gAMA", struct.pack(">I", 45455)))
    if rng.random() < 0.2:
        blocks = blocks[1:]
    place = png.index(b"IDAT") - 4 if rng.random() < 0.7 else len(png) - 12
    return png[:place] + b"".join(blocks) + png[place:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of these chunks."""
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(webp: bytes, width: int, height: int, rng: random.Random) -> bytes:
    """A WebP file with a header that announces EXIF, and with a profile of odd length or none."""
    flags, chunks = 8, [(webp[12:16], webp[20 : 20 + int.from_bytes(webp[16:20], "little")])]
    if rng.random() < 0.4:
        flags |= 32
        chunks.insert(0, (b"ICCP", rng.randbytes(rng.randrange(1, 60))))
    if rng.random() < 0.9:
        chunks.append((b"EXIF", odd_exif(rng)))
    if rng.random() < 0.2:
        chunks.append((b"XMP ", xmp(6)))
        flags |= 4
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + sizes), *chunks)


# ---- kinds


def picture(rng: random.Random) -> np.ndarray:
    """Noise on a smooth ground, so that most of a file's bytes matter."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    coarse = Image.fromarray(numbers.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    size = rng.choice([(90, 70), (64, 64), (51, 97)])
    smooth = np.asarray(coarse.resize(size), np.int64)
    return (smooth + numbers.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, kind: str, mode: str = "RGB", **options) -> bytes:
    """Pillow's file of this kind."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        image.putalpha(image.convert("L"))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(rng: random.Random) -> bytes:
    options = {"quality": rng.choice([40, 85, 100]), "subsampling": rng.choice([0, 1, 2])}
    options |= rng.choice([{}, {"progressive": True}, {"restart_marker_blocks": 4}])
    data = saved(picture(rng), "JPEG", rng.choice(["RGB", "RGB", "L", "CMYK"]), **options)
    return with_segments(data, rng) if rng.random() < 0.7 else data


def png(rng: random.Random) -> bytes:
    pixels = picture(rng)
    if rng.random() < 0.2:
        data = deep_png(pixels)
    else:
        mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
        more = {"transparency": rng.randrange(256)} if mode == "P" and rng.random() < 0.5 else {}
        data = saved(pixels, "PNG", mode, **more)
    return with_chunks(data, rng) if rng.random() < 0.7 else data


def deep_png(pixels: np.ndarray) -> bytes:
    """16 bits a channel, which Pillow does not write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2") * 257)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def webp(rng: random.Random) -> bytes:
    pixels, lossless = picture(rng), rng.random() < 0.5
    if rng.random() < 0.5:
        plain = saved(pixels, "WEBP", lossless=lossless, quality=80)
        return extended(plain, pixels.shape[1], pixels.shape[0], rng)
    more = {"exif": b"Exif\0\0" + odd_exif(rng)} if rng.random() < 0.5 else {}
    return saved(pixels, "WEBP", rng.choice(["RGB", "RGBA"]), lossless=lossless, **more)


def bmp(rng: random.Random) -> bytes:
    return saved(picture(rng), "BMP", rng.choice(["1", "L", "P", "RGB", "RGBA"]))


def tiff(rng: random.Random) -> bytes:
    pixels = picture(rng)
    if rng.random() < 0.5:
        order, planar, side = rng.choice("<>"), rng.random() < 0.3, rng.choice([0, 0, 32])
        orientation = rng.choice([None, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
        grey = rng.choice([None, None, 0, 1])
        return plain_tiff(pixels, order, orientation, planar, side, grey, rng.random() < 0.1)
    mode = rng.choice(["1", "L", "RGB", "RGBA", "CMYK", "I;16", "P"])
    options = {"compression": rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])}
    if mode == "RGB" and rng.random() < 0.3:
        options = {"compression": "jpeg"}
    return saved(pixels, "TIFF", mode, **options)


def plain_tiff(
    pixels: np.ndarray,
    order: str = "<",
    orientation: int | None = None,
    planar: bool = False,
    tile: int = 0,
    grey: int | None = None,
    circle: bool = False,
) -> bytes:
    """Uncompressed: planes apart, in tiles, grey with 0 for white or black; pages in a circle."""
    height, width = pixels.shape[:2]
    planes = pixels[..., :1] if grey is not None else pixels
    samples = planes.shape[2]
    layers = [planes[..., [k]] for k in range(samples)] if planar else [planes]
    if tile:
        pad = ((0, -height % tile), (0, -width % tile), (0, 0))
        layers = [np.pad(layer, pad) for layer in layers]
        parts = [
            layer[top : top + tile, left : left + tile].tobytes()
            for layer in layers
            for top in range(0, layer.shape[0], tile)
            for left in range(0, layer.shape[1], tile)
        ]
    else:
        parts = [layer.tobytes() for layer in layers]
    places, content = [], b""
    for part in parts:
        places.append(8 + len(content))
        content += part + bytes(len(part) % 2)
    tags = {256: [width], 257: [height], 258: [8] * samples, 259: [1]}
    tags |= {262: [2 if grey is None else grey], 277: [samples], 284: [2 if planar else 1]}
    if orientation is not None:
        tags[274] = [orientation]
    lengths = [len(part) for part in parts]
    if tile:
        tags |= {322: [tile], 323: [tile], 324: places, 325: lengths}
    else:
        tags |= {273: places, 278: [height], 279: lengths}
    directory = 8 + len(content)
    after, entries = directory + 6 + 12 * len(tags), b""
    values = b""
    for tag, numbers in sorted(tags.items()):
        kind, letter = (4, "I") if tag in (273, 279, 324, 325) else (3, "H")
        packed = struct.pack(order + letter * len(numbers), *numbers)
        if len(packed) > 4:
            packed, values = struct.pack(order + "I", after + len(values)), values + packed
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    following = struct.pack(order + "I", directory if circle else 0)
    return head + content + struct.pack(order + "H", len(tags)) + entries + following + values


def pnm(rng: random.Random) -> bytes:
    data = saved(picture(rng), "PPM", rng.choice(["1", "L", "RGB"]))
    return data[:3] + b"# a comment\n" + data[3:] if rng.random() < 0.3 else data


def jpeg_2000(rng: random.Random) -> bytes:
    more: dict[str, Any] = rng.choice(
        [{}, {"no_jp2": True}, {"tile_size": (32, 32)}, {"irreversible": True}]
    )
    return saved(picture(rng), "JPEG2000", rng.choice(["L", "RGB", "RGBA"]), **more)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "JPEG": jpeg,
    "PNG": png,
    "WebP": webp,
    "BMP": bmp,
    "TIFF": tiff,
    "PNM": pnm,
    "JPEG 2000": jpeg_2000,
}


def odd_file(kind: str, rng: random.Random) -> bytes:
    """Whole, damaged anywhere, or damaged where metadata are."""
    data, how = KINDS[kind](rng), rng.random()
    if how < 0.35:
        return data
    if how < 0.65:
        return damaged(data, rng)
    edited = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(min(260, len(data)))
        edited[place if rng.random() < 0.8 else -1 - place] = rng.choice(
            [0, 1, 6, 0x7F, 0x80, 0xFF, rng.randrange(256)]
        )
    return bytes(edited)
