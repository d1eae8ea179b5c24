"""Files as they turn up in collections: damaged, huge, of unusual samples, or no pictures."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = [
    "HEIC",
    "SVG",
    "animation",
    "bomb_png",
    "deep_rgb_png",
    "gradient",
    "png_chunk",
    "saved",
    "swapped_profile",
    "with_late_orientation",
]

SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def gradient(width: int = 24, height: int = 16) -> NDArray[np.uint8]:
    """Return pixels [H, W, 3] that no turn or flip leaves as they are."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x // max(1, width - 1), 255 * y // max(1, height - 1)
    return np.stack([red, green, np.full_like(x, 60)], axis=-1).astype(np.uint8)


def saved(picture: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture's file."""
    buffer = io.BytesIO()
    own = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    own.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    """Return two frames, red and then blue."""
    red, blue = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(red, kind, save_all=True, append_images=[blue], duration=100, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def bomb_png(side: int) -> bytes:
    """Return a PNG of some bytes that claims a square of ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return _SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)


def deep_rgb_png(pixels: NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16 bits a sample, which Pillow does not write, of pixels [H, W, 3]."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)


def with_late_orientation(png: bytes, orientation: int) -> bytes:
    """Return a PNG with its EXIF behind the pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes().removeprefix(b"Exif\x00\x00")
    end = png_chunk(b"IEND", b"")
    return png.removesuffix(end) + png_chunk(b"eXIf", content) + end


def swapped_profile() -> bytes:
    """Return a profile of RGB whose red is sRGB's blue and the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for index in range(struct.unpack(">I", data[128:132])[0]):
        at = 132 + 12 * index
        places[bytes(data[at : at + 4])] = at
    for one, other in (("rXYZ", "bXYZ"),):
        first, second = places[one.encode()], places[other.encode()]
        data[first : first + 4], data[second : second + 4] = other.encode(), one.encode()
    return bytes(data)
