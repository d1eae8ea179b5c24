"""Bytes to pictures, as far as an index needs them: sizes and kinds."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from diptych.errors import ImageInvalid

__all__ = ["PictureInfo", "read_picture_info"]

_TURNED = frozenset({5, 6, 7, 8})
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureInfo:
    """What a picture's header says."""

    width: int
    """In pixels, after it was turned as EXIF says."""
    height: int
    format: str
    mode: str


def read_picture_info(data: bytes) -> PictureInfo:
    """Return what the header of a picture says, without decoding its pixels.

    Raises:
        ImageInvalid: It is none that is read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if image.getexif().get(_ORIENTATION) in _TURNED:
                    width, height = height, width
                return PictureInfo(
                    width=width, height=height, format=image.format or "", mode=image.mode
                )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageInvalid("image", f"{error!s:.200}") from error
