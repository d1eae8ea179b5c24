"""How large an image becomes and what of it is seen: arithmetic on columns of sizes.

Sizes are (width, height) in pixels, as pictures and manifests state them. Images that are larger
than a dataset's ``maximum`` are first brought down to its ``target``, so that a crop shows their
subject; all others are resized until they just cover their bucket, so that least is cut.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.datasets.draws import drawn_below, drawn_words, share_of
from diptych.datasets.spec import CropSpec, SizeSpec
from diptych.digest import Digest
from diptych.embeddings.key import Preprocessing

__all__ = [
    "Fitted",
    "MicroConditions",
    "aspects_of",
    "extent_of",
    "fit",
    "is_aspect_outside",
    "is_too_small",
    "micro_conditions",
    "place_crop",
]

Sizes = NDArray[np.int32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MEGAPIXEL: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What images become in their buckets, row by row."""

    resized: Sizes
    """Width and height [N, 2] before the crop; never less than the bucket's."""
    scale: Floats
    """Factor [N] by which the side that grows most does; above 1, the image is enlarged."""
    cut: Floats
    """Share [N] of the resized image that the crop leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroConditions:
    """What SDXL is told of an image's size (Podell et al. 2023, 2.2); heights come first."""

    original_size: tuple[int, int]
    """Height and width of the file's picture, before anything was resized."""
    crop_top_left: tuple[int, int]
    """Rows and columns cut away above and left of what is seen, in pixels after resizing."""
    target_size: tuple[int, int]
    """Height and width of what is seen: the bucket's."""


def aspects_of(sizes: Sizes) -> Floats:
    """Return width over height [N] of ``sizes`` [N, 2]."""
    return sizes[:, 0] / sizes[:, 1]


def extent_of(sizes: Sizes, size: SizeSpec) -> Floats:
    """Return how large images are, in the unit of ``size``."""
    wide = sizes.astype(np.float64)
    if size.unit == "shorter_edge":
        return np.minimum(wide[:, 0], wide[:, 1])
    area = wide[:, 0] * wide[:, 1]
    return area / MEGAPIXEL if size.unit == "megapixels" else np.sqrt(area)


def is_too_small(sizes: Sizes, size: SizeSpec) -> Flags:
    """Return which images are below the minimum."""
    return extent_of(sizes, size) < (0.0 if size.minimum is None else size.minimum)


def is_aspect_outside(sizes: Sizes, size: SizeSpec) -> Flags:
    """Return which images are too narrow or too wide."""
    lowest = 0.0 if size.minimum_aspect is None else size.minimum_aspect
    highest = math.inf if size.maximum_aspect is None else size.maximum_aspect
    aspects = aspects_of(sizes)
    return (aspects < lowest) | (aspects > highest)


def fit(sizes: Sizes, targets: Sizes, size: SizeSpec, crop: CropSpec) -> Fitted:
    """Return what images of ``sizes`` [N, 2] become in buckets of ``targets`` [N, 2].

    Their aspects are kept to the pixel; ``preserve`` stretches them to the bucket's instead.
    """
    ratios = targets / sizes
    covering = ratios.max(axis=1)
    if crop.style == "preserve":
        return Fitted(resized=targets.copy(), scale=covering, cut=np.zeros(len(sizes)))
    scale = np.maximum(covering, _downsampling(sizes, size))
    resized = np.maximum(np.rint(sizes * scale[:, None]), targets).astype(np.int32)
    seen = targets.astype(np.float64).prod(axis=1) / resized.astype(np.float64).prod(axis=1)
    return Fitted(resized=resized, scale=scale, cut=1.0 - seen)


def _downsampling(sizes: Sizes, size: SizeSpec) -> Floats:
    """Return the factor [N] that brings an image above the maximum to the target; else 0."""
    if size.maximum is None or size.target is None:
        return np.zeros(len(sizes))
    extent = extent_of(sizes, size)
    factor = size.target / extent
    if size.unit == "megapixels":
        factor = np.sqrt(factor)
    return np.where(extent > size.maximum, factor, 0.0)


def place_crop(
    resized: tuple[int, int],
    target: tuple[int, int],
    crop: CropSpec,
    *,
    image: Digest,
    epoch: int,
    repeat: int,
) -> tuple[tuple[int, int, int, int], bool]:
    """Return the crop that an epoch sees - left, top, width, height - and whether it is flipped.

    Args:
        resized: Width and height of the image.
        target: Width and height of its bucket.
        crop: How it is cropped; its seed alone draws, whatever the run's.
        image: Digest of the image's bytes.
        epoch: From 1; 0 is what evaluation sees.
        repeat: Which of the times that the epoch sees the image, from 0.
    """
    spare = resized[0] - target[0], resized[1] - target[1]
    left, top, is_flipped = 0, 0, False
    if crop.style == "centre":
        left, top = spare[0] // 2, spare[1] // 2
    if crop.style == "random" or crop.flip_probability:
        words = drawn_words("crop", crop.seed, str(image), epoch, repeat)
        is_flipped = share_of(words[2]) < crop.flip_probability
        if crop.style == "random":
            left, top = drawn_below(spare[0] + 1, words[0]), drawn_below(spare[1] + 1, words[1])
    return (left, top, *target), is_flipped


def micro_conditions(size: tuple[int, int], seen: Preprocessing) -> MicroConditions:
    """Return what SDXL is told of an image of ``size`` (width, height) that is seen so.

    A flipped image is one whose other side was cut away.
    """
    left, top, width, height = seen.crop
    if seen.is_flipped:
        left = seen.resized[0] - left - width
    return MicroConditions(
        original_size=(size[1], size[0]), crop_top_left=(top, left), target_size=(height, width)
    )
