"""Pixels to the bytes of a picture, and back."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.trajectory import OutputFormat

__all__ = ["encode_picture", "read_picture", "upright_size"]

_PNG_LEVEL: Final = 3
"""zlib's; the default of 6 takes three times as long for a few per cent fewer bytes."""
_WEBP_METHOD: Final = 2
_FORMATS: Final = ("PNG", "WEBP", "JPEG")
_QUARTER_TURNS: Final = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_UPPER_BYTE: Final = 8


def encode_picture(pixels: NDArray[np.uint8], output: OutputFormat, *, quality: int) -> bytes:
    """Return ``pixels`` [H, W, 3] as the bytes of a PNG, WebP or JPEG.

    ``quality`` is 1..100 and means nothing to PNG, which is exact.
    """
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if output is OutputFormat.PNG:
        picture.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    elif output is OutputFormat.WEBP:
        picture.save(buffer, "WEBP", quality=quality, method=_WEBP_METHOD)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return (width, height) of ``picture`` once it is turned as its EXIF orientation says.

    Decodes its pixels where it is a PNG, which may keep its EXIF behind them.
    """
    width, height = picture.size
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
    return (height, width) if turned else (width, height)


def read_picture(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Return an encoded picture as [height, width, 3], resized where it has another size.

    It is turned upright as its EXIF orientation says, and 16-bit grey keeps its upper bits.

    Raises:
        InvalidRequest: The bytes are no picture; limits on their claims are the caller's.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            picture = _to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError) as error:
        violation = FieldViolation(field="image", description=f"does not decode: {error}")
        raise InvalidRequest([violation]) from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.array(picture)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Return ``picture`` in RGB; Pillow itself would clip 16-bit grey at 255."""
    if picture.mode.startswith("I"):
        grey = np.clip(np.asarray(picture), 0, np.iinfo(np.uint16).max).astype(np.uint16)
        picture = Image.fromarray((grey >> _UPPER_BYTE).astype(np.uint8))
    return picture.convert("RGB")
