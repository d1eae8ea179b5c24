"""Pictures and latents that came with a request: checked before anything believes them."""

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diptych.inference.limits import Limits
from diptych.inference.pictures import upright_size
from diptych.rpc.violations import Violations

__all__ = ["check_sha256", "check_size", "checked_latents", "checked_picture"]

PICTURE_FORMATS: Final = ("PNG", "WEBP", "JPEG")
"""The only decoders that uploaded bytes can reach."""

LATENT_AXES: Final = ("images", "channels", "height / 8", "width / 8")

DECODE_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged bytes."""
MAX_LATENT: Final = 1e6
"""Magnitude of a latent; the widest schedule starts from noise some ten thousand wide."""


def check_size(
    width: int, height: int, limits: Limits, found: Violations, *, fields: tuple[str, str]
) -> None:
    """Check an output size in pixels; ``fields`` name the width and the height."""
    for field, side in zip(fields, (width, height), strict=True):
        found.integer(field, side, limits.min_side, limits.max_side)
        if side % limits.size_multiple:
            found.add(field, f"{side} is not a multiple of {limits.size_multiple}")
    if width * height > limits.max_pixels:
        found.add(
            fields[0],
            f"{width}x{height} is {width * height} pixels, over the limit of {limits.max_pixels}",
        )


def checked_picture(
    data: bytes, limits: Limits, found: Violations, *, field: str
) -> tuple[int, int]:
    """Return the (width, height) in pixels of an encoded picture that decodes, once upright.

    The size comes from the header and is judged before any pixel is decoded, so a small file
    that claims a huge picture costs nothing.
    """
    smallest = (limits.min_side, limits.min_side)
    if not data:
        found.add(field, "is empty; a PNG, WebP or JPEG picture was expected")
        return smallest
    if len(data) > limits.max_inline_bytes:
        found.add(field, f"{len(data)} bytes exceed the limit of {limits.max_inline_bytes}")
        return smallest
    before = Violations()
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
            num_frames = getattr(picture, "n_frames", 1)
            check_size(width, height, limits, before, fields=(field, field))
            if num_frames != 1:
                before.add(field, f"is an animation of {num_frames} frames, not one picture")
            if not before:
                picture.load()
                width, height = upright_size(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        found.add(field, f"claims more pixels than the limit of {limits.max_pixels}")
        return smallest
    except UnidentifiedImageError:
        found.add(field, "does not decode as PNG, WebP or JPEG: it is none of them")
        return smallest
    except DECODE_ERRORS as problem:
        found.add(field, f"does not decode as PNG, WebP or JPEG: {problem}"[:200])
        return smallest
    found.extend(before)
    return smallest if before else (width, height)


def checked_latents(
    shape: Sequence[int], data: bytes, *, num_channels: int, limits: Limits, found: Violations
) -> NDArray[np.float32]:
    """Return latents [N, C, h, w] float32 from little-endian bytes; zeros where they are bad.

    Args:
        shape: What the header claims.
        data: The bytes that should fill it.
        num_channels: Channels of the expert that goes on with them.
        limits: Bounds on the request.
        found: Where findings go, under ``latents.header.shape`` and ``latents.data``.
    """
    replacement = np.zeros((1, num_channels, limits.min_side // 8, limits.min_side // 8), "<f4")
    if len(data) > limits.max_inline_bytes:
        found.add(
            "latents.data", f"{len(data)} bytes exceed the limit of {limits.max_inline_bytes}"
        )
        return replacement
    if not _shape_fits(shape, num_channels, limits, found):
        return replacement
    expected = 4 * math.prod(shape)
    if len(data) != expected:
        found.add(
            "latents.data",
            f"{len(data)} bytes do not fill shape {list(shape)}, which takes {expected}",
        )
        return replacement
    latents = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    num_bad = int(latents.size - np.isfinite(latents).sum())
    if num_bad:
        found.add("latents.data", f"{num_bad} of {latents.size} values are not finite")
    elif (largest := float(np.abs(latents).max())) > MAX_LATENT:
        found.add("latents.data", f"a magnitude of {largest:g} exceeds the limit of {MAX_LATENT:g}")
    return latents


def check_sha256(data: bytes, claimed: bytes, found: Violations, *, field: str) -> None:
    """Check that ``data`` has the digest its sender computed; an empty one is not checked."""
    if claimed and hashlib.sha256(data).digest() != claimed:
        found.add(field, "is not the SHA-256 of the bytes that arrived")


def _shape_fits(shape: Sequence[int], num_channels: int, limits: Limits, found: Violations) -> bool:
    """Return whether ``shape`` is one of latents this server takes, noting why not."""
    field = "latents.header.shape"
    if len(shape) != len(LATENT_AXES) or min(shape) < 1:
        found.add(field, f"{list(shape)[:8]} is not [{', '.join(LATENT_AXES)}], each at least 1")
        return False
    own = Violations()
    num_images, channels, height, width = shape
    if channels != num_channels:
        own.add(field, f"{channels} channels, while the refiner takes {num_channels}")
    own.integer(f"{field}[0]", num_images, 1, limits.max_images)
    check_size(8 * width, 8 * height, limits, own, fields=(f"{field}[3]", f"{field}[2]"))
    found.extend(own)
    return not own
