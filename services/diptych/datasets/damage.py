"""Pictures that are hurt: cut short, saved too small, or not what their name says."""

import io
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "MAX_BLOCKINESS",
    "MIN_QUALITY",
    "blockiness",
    "cut_problem",
    "damage_of",
    "jpeg_quality",
    "suffix_problem",
]

MIN_QUALITY: Final = 50
"""JPEG quality below which a picture is reported, on libjpeg's scale of 1 to 100."""
MAX_BLOCKINESS: Final = 1.6
"""Steps across the borders of JPEG's blocks against steps elsewhere; 1 has no blocks."""
_BLOCK: Final = 8
_LAGS: Final = ((0, 0), (2 * _BLOCK, 2 * _BLOCK), (2 * _BLOCK, 0), (0, 2 * _BLOCK))
"""Pixels down and right to what a picture is compared with; two blocks, since textures of chequers
repeat after two."""
_LOOK: Final = 512
"""Pixels of the square in the middle that is looked at."""
_MIN_STEP: Final = 0.5
"""Grey levels: below it a picture is so smooth that the ratio says nothing."""
_LUMA: Final = (0.299, 0.587, 0.114)
"""ITU-R BT.601: weights of red, green and blue."""
_END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
_SUFFIXES: Final[Mapping[str, frozenset[str]]] = {
    "JPEG": frozenset({"jpg", "jpeg", "jpe", "jfif"}),
    "MPO": frozenset({"jpg", "jpeg", "jpe", "jfif", "mpo"}),
    "PNG": frozenset({"png", "apng"}),
    "WEBP": frozenset({"webp"}),
    "GIF": frozenset({"gif"}),
    "BMP": frozenset({"bmp", "dib"}),
    "TIFF": frozenset({"tif", "tiff"}),
    "AVIF": frozenset({"avif"}),
    "PPM": frozenset({"ppm", "pgm", "pbm", "pnm"}),
    "TGA": frozenset({"tga"}),
    "JPEG2000": frozenset({"jp2", "j2k", "jpx"}),
}
# ITU-T T.81, table K.1: the luminance table that quality scales.
_LUMINANCE_SUM: Final = 3688


def suffix_problem(place: str, picture_format: str) -> str:
    """Return what a name claims wrongly about a picture, empty if nothing."""
    suffix = place.rpartition("/")[2].rpartition(".")[2].lower()
    known = {name for names in _SUFFIXES.values() for name in names}
    expected = _SUFFIXES.get(picture_format)
    if expected is None or suffix in expected or suffix not in known:
        return ""
    return f"named .{suffix}, and a {picture_format}"


def cut_problem(data: bytes, picture_format: str) -> str:
    """Return how a picture's bytes end too early, empty if they do not; decodes nothing."""
    if picture_format in {"JPEG", "MPO"}:
        # Inside a scan 0xff is followed by zero or a restart, so neither marker is there by chance.
        if data.rfind(_START_OF_SCAN) > data.rfind(_END_OF_IMAGE):
            return "a JPEG without its end marker: the file was cut"
    elif picture_format == "PNG":
        if b"IEND" not in data[-4096:] and b"IEND" not in data:
            return "a PNG without its end: the file was cut"
    elif picture_format == "WEBP":
        announced = int.from_bytes(data[4:8], "little") + 8
        if announced > len(data) + 1:
            return f"a WebP of {len(data)} bytes that announces {announced}"
    return ""


def damage_of(data: bytes, pixels: NDArray[np.uint8], picture_format: str) -> str:
    """Return what compression did to a picture, empty if it is sound.

    Args:
        data: The file.
        pixels: Its pixels [H, W, 3].
        picture_format: As Pillow names it.
    """
    problems = []
    quality = jpeg_quality(data) if picture_format == "JPEG" else None
    if quality is not None and quality < MIN_QUALITY:
        problems.append(f"JPEG quality about {quality}, expected {MIN_QUALITY} at least")
    found = blockiness(_middle(pixels))
    if found > MAX_BLOCKINESS:
        problems.append(f"blocks of 8 pixels stand out by {found:.1f}, at most {MAX_BLOCKINESS}")
    return "; ".join(problems)


def jpeg_quality(data: bytes) -> int | None:
    """Return the quality that a JPEG's luminance table stands for, None if it has none.

    libjpeg multiplies table K.1 by ``200 - 2 q`` per cent above quality 50 and by ``5000 / q``
    below; this inverts that for the table's sum.
    """
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        tables: Mapping[int, list[int]] = getattr(image, "quantization", {})
    if not tables:
        return None
    percent = 100.0 * sum(tables[min(tables)]) / _LUMINANCE_SUM
    quality = (200.0 - percent) / 2.0 if percent <= 100.0 else 5000.0 / percent
    return max(1, min(100, round(quality)))


def blockiness(grey: NDArray[np.float32]) -> float:
    """Return typical steps across the borders of 8x8 blocks over typical steps elsewhere.

    Blocks may begin at any pixel, as they do in a picture that was cropped after it was hurt. They
    are everywhere, in both directions, and no two have the same error; so what counts is the
    weakest of both directions of the picture itself, where one alone may be a fence in it, and of
    its differences to itself 16 pixels on, where a texture that repeats is gone and errors are not.

    Args:
        grey: [H, W].

    Returns:
        The weakest found, the first that is ordinary: a sound picture is told at first sight.
    """
    weakest = math.inf
    for down, right in _LAGS:
        height, width = (
            max(0, size - lag) for size, lag in zip(grey.shape, (down, right), strict=True)
        )
        pixels = grey[:height, :width]
        if down or right:
            pixels = pixels - grey[down:, right:]
        for turned in (pixels, pixels.T):
            weakest = min(weakest, _block_ratio(turned))
            if weakest <= MAX_BLOCKINESS:
                return weakest
    return weakest


def _block_ratio(grey: NDArray[np.float32]) -> float:
    """Return the largest of the typical steps to the right by their place modulo 8, over the rest.

    A step is the mean over the 8 rows of a cell; typical is the median of all cells, so that what
    stands in less than half of the picture does not count.
    """
    height, width = grey.shape
    if min(height, width) < 4 * _BLOCK:
        return 1.0
    steps = np.abs(np.diff(grey[: height // _BLOCK * _BLOCK], axis=1))
    cells = steps.reshape(-1, _BLOCK, width - 1).mean(axis=1)
    whole = (width - 1) // _BLOCK * _BLOCK
    # One sort for the eight medians: a call of np.median takes longer than a small picture's sort.
    ordered = np.sort(cells[:, :whole].reshape(-1, _BLOCK).T, axis=1)
    count = ordered.shape[1]
    by_phase = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    largest = float(by_phase.max())
    others = (float(by_phase.sum()) - largest) / (_BLOCK - 1)
    return largest / max(others, _MIN_STEP)


def _middle(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the middle of a picture as grey levels [H, W]."""
    top, left = (max(0, size - _LOOK) // 2 for size in pixels.shape[:2])
    middle = pixels[top : top + _LOOK, left : left + _LOOK].astype(np.float32)
    return middle @ np.array(_LUMA, dtype=np.float32)
