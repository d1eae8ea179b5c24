"""Files of unknown origin to the pixels an encoder sees: the same ones everywhere, or an error."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from diptych.datasets.picture_colours import UNREAD_MODES, check_profile, to_srgb
from diptych.datasets.picture_kinds import READ, describe_unread
from diptych.embeddings.key import Preprocessing
from diptych.errors import ImageInvalid

__all__ = ["PictureInfo", "PictureLimits", "prepare", "read_picture_info"]

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation; 1 is upright already."""
_TURNS_BACK: Final = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What undoes a turn; the others undo themselves."""
_QUARTER_TURNS: Final = (5, 6, 7, 8)
_FILTERS: Final = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
_DECODE_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    Warning,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged bytes; a Warning where the process wants errors."""
_REDUCED: Final = 1
"""In TIFF's NewSubfileType: the picture stands for a larger one."""
_PNG_SIGNATURE_BYTES: Final = 8
_PNG_LATE: Final = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""How chunks begin that may turn a PNG and lie behind its pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """How large a file and its picture may be."""

    max_bytes: int = 128 << 20
    max_pixels: int = 1 << 26
    """Width times height, of the file and of what it is resized to; 64 megapixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureInfo:
    """What the header of a file says."""

    width: int
    """Pixels, once the picture is turned upright."""
    height: int
    format: str
    """PNG, JPEG, WEBP, GIF, BMP or TIFF; by its bytes, whatever its name."""
    mode: str
    """Pillow's name for its samples: RGB, L, P, RGBA, CMYK, I;16, ..."""
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    num_frames: int
    has_alpha: bool
    """Whether pixels may be transparent."""
    has_profile: bool
    """Whether a colour profile is embedded."""
    oddities: tuple[str, ...] = ()
    """What is wrong with it but does not keep it from being read: sentences without a subject."""


def read_picture_info(
    data: bytes, *, source: str = "", limits: PictureLimits | None = None
) -> PictureInfo:
    """Return what a file says of itself; its pixels are not decoded.

    Args:
        data: The whole file.
        source: What an error calls it.
        limits: What is more is refused.

    Raises:
        ImageInvalid: It is no picture that is read, or exceeds the limits. It may still turn out
            to be damaged when it is decoded.
    """
    with _opened(data, source, limits or PictureLimits()) as picture:
        orientation, oddity = _orientation(picture, data)
        width, height = picture.size
        if orientation in _QUARTER_TURNS and not _turns_itself(picture):
            width, height = height, width
        oddities = [found for found in (oddity, check_profile(picture)) if found is not None]
        return PictureInfo(
            width=width,
            height=height,
            format=_format(picture),
            mode=picture.mode,
            orientation=orientation,
            num_frames=_num_frames(picture),
            has_alpha=picture.has_transparency_data,
            has_profile=bool(picture.info.get("icc_profile")),
            oddities=tuple(oddities),
        )


def prepare(
    data: bytes,
    preprocessing: Preprocessing,
    *,
    source: str = "",
    limits: PictureLimits | None = None,
) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] that an encoder sees of a file.

    Exact arithmetic from the decoder on, so the pixels are the same on every platform.

    Args:
        data: The whole file.
        preprocessing: What happens to it, in the order stated there.
        source: What an error calls it.
        limits: What is more is refused.

    Raises:
        ImageInvalid: It is no picture that is read, is damaged, exceeds the limits, or has no
            such frame; or the crop does not lie within what it is resized to.
    """
    limits = limits or PictureLimits()
    _check_geometry(preprocessing, source, limits)
    with _opened(data, source, limits) as picture:
        if preprocessing.frame >= _num_frames(picture):
            problem = f"has {_num_frames(picture)} frames, asked for was {preprocessing.frame}"
            raise ImageInvalid(source, f"{problem}, counted from 0")
        if preprocessing.frame:
            picture.seek(preprocessing.frame)
        orientation, _ = _orientation(picture, data)
        picture.load()
        turned = _turned(picture, orientation, is_wanted=preprocessing.orientation == "exif")
        pixels = to_srgb(turned, colour=preprocessing.colour, background=preprocessing.background)
    return _placed(pixels, preprocessing)


def _placed(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return ``pixels`` [H, W, 3] resized, cropped and flipped."""
    if pixels.shape[1::-1] != preprocessing.resized:
        resized = Image.fromarray(pixels).resize(
            preprocessing.resized, _FILTERS[preprocessing.resample]
        )
        pixels = np.asarray(resized)
    left, top, width, height = preprocessing.crop
    cropped = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(cropped[:, ::-1] if preprocessing.is_flipped else cropped)


def _check_geometry(preprocessing: Preprocessing, source: str, limits: PictureLimits) -> None:
    (width, height), (left, top, own_width, own_height) = preprocessing.resized, preprocessing.crop
    if min(width, height) < 1 or width * height > limits.max_pixels:
        problem = f"resized to {width}x{height}, expected 1 to {limits.max_pixels} pixels"
        raise ImageInvalid(source, problem)
    is_inside = left + own_width <= width and top + own_height <= height
    if min(left, top) < 0 or min(own_width, own_height) < 1 or not is_inside:
        problem = f"the crop {own_width}x{own_height} at {left}, {top} is not within"
        raise ImageInvalid(source, f"{problem} the {width}x{height} it is resized to")


@contextmanager
def _opened(data: bytes, source: str, limits: PictureLimits) -> Iterator[Image.Image]:
    """Open a file whose claims are within limits; whatever goes wrong inside is ImageInvalid."""
    if not data:
        raise ImageInvalid(source, "is empty")
    if len(data) > limits.max_bytes:
        problem = f"has {len(data)} bytes, the limit is {limits.max_bytes}"
        raise ImageInvalid(source, problem)
    try:
        with Image.open(io.BytesIO(data), formats=READ) as picture:
            _check(picture, source, limits)
            yield picture
    except ImageInvalid:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        problem = f"claims more pixels than the limit of {limits.max_pixels}"
        raise ImageInvalid(source, problem) from error
    except UnidentifiedImageError as error:
        problem = f"is {describe_unread(data)}; read are {', '.join(READ)}"
        raise ImageInvalid(source, problem) from error
    except _DECODE_ERRORS as error:
        raise ImageInvalid(source, f"does not decode: {error}"[:200]) from error


def _check(picture: Image.Image, source: str, limits: PictureLimits) -> None:
    width, height = picture.size
    if width * height > limits.max_pixels:
        problem = f"claims {width}x{height} pixels, the limit is {limits.max_pixels}"
        raise ImageInvalid(source, problem)
    if picture.mode in UNREAD_MODES:
        problem = f"holds {UNREAD_MODES[picture.mode]}, expected 8 or 16 bits of grey or colour"
        raise ImageInvalid(source, problem)
    if picture.format == "TIFF" and _is_camera_raw(picture):
        problem = "is a camera's raw file with a small picture first; develop it to read it"
        raise ImageInvalid(source, problem)


def _is_camera_raw(picture: Image.Image) -> bool:
    tags = getattr(picture, "tag_v2", {})
    kind = tags.get(ExifTags.Base.NewSubfileType, 0)
    return bool(kind & _REDUCED) or ExifTags.Base.DNGVersion in tags


def _format(picture: Image.Image) -> str:
    # A JPEG with a second view or a thumbnail behind it is a JPEG to everybody else.
    return "JPEG" if picture.format == "MPO" else str(picture.format)


def _num_frames(picture: Image.Image) -> int:
    return 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))


def _orientation(picture: Image.Image, data: bytes) -> tuple[int, str | None]:
    """Return a picture's orientation, and what is wrong with how it is stated.

    As in viewers, damaged EXIF counts as none.
    """
    try:
        if picture.format == "PNG" and not _png_turns_late(data):
            # Its own method decodes the pixels first, to see what lies behind them.
            exif = Image.Image.getexif(picture)
        else:
            exif = picture.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS as error:
        return 1, f"its EXIF cannot be read: {error}"[:200]
    if value == 1 or value in _TURNS:
        return value, None
    return 1, f"its EXIF orientation is {value!r}, expected 1 to 8"[:200]


def _turned(picture: Image.Image, orientation: int, *, is_wanted: bool) -> Image.Image:
    """Return a loaded picture turned upright, or as it is in its file."""
    turn = _TURNS.get(orientation)
    if turn is None or is_wanted == _turns_itself(picture):
        return picture
    return picture.transpose(turn if is_wanted else _TURNS_BACK.get(orientation, turn))


def _turns_itself(picture: Image.Image) -> bool:
    """Return whether Pillow turns a picture upright when it loads it."""
    return picture.format == "TIFF"


def _png_turns_late(data: bytes) -> bool:
    """Return whether a PNG has something behind its pixels that may turn it."""
    at, is_behind = _PNG_SIGNATURE_BYTES, False
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + min(size, 32)]
        is_behind = is_behind or kind == b"IDAT"
        if is_behind and (kind.startswith(_PNG_LATE) or content.startswith(_PNG_LATE)):
            return True
        at += 12 + size
    return False
