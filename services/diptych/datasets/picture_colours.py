"""From whatever samples a picture holds to sRGB, 8 bits each, by integer arithmetic only."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = ["UNREAD_MODES", "check_profile", "to_srgb"]

UNREAD_MODES: Final = {"I": "32-bit samples", "F": "float samples", "LAB": "Lab colours"}
"""Pillow's modes that cannot be read, and what they hold."""

_SPACES: Final = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Colour space that a profile must be of to mean anything for a mode."""
_UPPER_BYTE: Final = 8
_OPAQUE: Final = 255

Pixels = NDArray[np.uint8]


def to_srgb(picture: Image.Image, *, colour: str, background: tuple[int, int, int]) -> Pixels:
    """Return the pixels [H, W, 3] of a loaded picture.

    Samples of 16 bits keep their upper byte.

    Args:
        picture: Of no mode that ``UNREAD_MODES`` names.
        colour: ``srgb`` applies an embedded profile, ``ignore`` does not.
        background: What shows through transparent pixels.
    """
    samples, alpha = _split(picture)
    transform = _transform(picture, samples.mode)[0] if colour == "srgb" else None
    if transform is not None:
        converted = ImageCms.applyTransform(samples, transform)
        assert converted is not None
        samples = converted
    pixels: Pixels = np.array(samples.convert("RGB"))
    return pixels if alpha is None else _laid_on(pixels, np.asarray(alpha), background)


def check_profile(picture: Image.Image) -> str | None:
    """Return why the embedded profile of an opened picture cannot be applied; None if it can."""
    return _transform(picture, _colour_mode(picture))[1]


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return samples as L, RGB or CMYK, and what is opaque as L; None where all is."""
    if picture.mode.startswith("I;16"):
        return _split_deep(picture)
    if picture.has_transparency_data:
        is_grey = _colour_mode(picture) == "L"
        *bands, alpha = picture.convert("LA" if is_grey else "RGBA").split()
        return (bands[0] if is_grey else Image.merge("RGB", bands)), alpha
    return picture if picture.mode in _SPACES else picture.convert(_colour_mode(picture)), None


def _split_deep(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return 16-bit grey as L; Pillow itself would clip it at 255."""
    grey = np.asarray(picture).astype(np.uint16)
    clear = picture.info.get("transparency")
    alpha = None
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(grey == clear, 0, _OPAQUE).astype(np.uint8))
    return Image.fromarray((grey >> _UPPER_BYTE).astype(np.uint8)), alpha


def _colour_mode(picture: Image.Image) -> str:
    """Return which of L, RGB and CMYK the colours of a picture are."""
    if picture.mode == "CMYK":
        return "CMYK"
    is_grey = picture.mode in {"1", "L", "LA", "La"} or picture.mode.startswith("I;16")
    return "L" if is_grey else "RGB"


def _transform(
    picture: Image.Image, mode: str
) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """Return what takes samples to sRGB by the embedded profile, or why there is nothing.

    As in browsers a profile that is damaged, or of other samples than these, counts as none.
    """
    data = picture.info.get("icc_profile")
    if not data:
        return None, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        if space != _SPACES[mode]:
            return None, f"its colour profile is for {space}, its samples are {_SPACES[mode]}"
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(profile, srgb, mode, "RGB"), None
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError) as error:
        return None, f"its colour profile cannot be read: {error}"


def _laid_on(pixels: Pixels, alpha: Pixels, background: tuple[int, int, int]) -> Pixels:
    """Return ``pixels`` [H, W, 3] over a colour, rounded to the nearest."""
    opacity = alpha[..., None].astype(np.uint16)
    behind = np.array(background, np.uint16)
    mixed = pixels * opacity + behind * (_OPAQUE - opacity) + _OPAQUE // 2
    laid: Pixels = (mixed // _OPAQUE).astype(np.uint8)
    return laid
