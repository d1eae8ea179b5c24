"""Buckets: the few sizes that images are brought to, and which image takes which.

The sizes of a resolution are those that an area gives when both edges are rounded. An image takes
the one whose aspect is nearest to its own in ratio, which is the one that cuts least. A bucket that
cannot make a batch joins its neighbour, or is filled by repeats; none is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.datasets.draws import drawn_below, drawn_words
from diptych.datasets.pictures import PictureLimits
from diptych.datasets.sizing import Floats, Sizes, aspects_of, fit
from diptych.datasets.spec import BucketsSpec, CropSpec, DatasetSpec, SizeSpec
from diptych.digest import Digest

__all__ = ["MAX_PIXELS", "Assigned", "assign", "bucket_sizes", "merge_small", "nearest"]

Numbers = NDArray[np.int64]

LOWEST_ASPECT: Final = 0.05
HIGHEST_ASPECT: Final = 20.0
NONE: Final = -1
"""Of an image that no bucket may take."""
MEGAPIXEL: Final = 10**6
MAX_PIXELS: Final = PictureLimits().max_pixels
"""Of an image before its crop; a thread of a picture may need more to cover a bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """Which bucket each image takes."""

    sizes: Sizes
    """Width and height [K, 2] of the buckets, from the narrowest aspect to the widest."""
    bucket: Numbers
    """Of each image [N]; -1 where it would be enlarged too much in any."""


def bucket_sizes(size: SizeSpec, buckets: BucketsSpec) -> Sizes:
    """Return widths and heights [K, 2], from the narrowest aspect to the widest.

    No two have one aspect: of those that would, the one nearest to the resolution's area stays.
    """
    if buckets.sizes:
        found = np.array(buckets.sizes, dtype=np.int32)
    elif buckets.aspect_decimals is None:
        found = _all_sizes(size, buckets.edge)
    else:
        steps = 10**buckets.aspect_decimals
        lowest, highest = math.ceil(LOWEST_ASPECT * steps), math.floor(HIGHEST_ASPECT * steps)
        found = _rounded(np.arange(max(lowest, 1), highest + 1) / steps, size, buckets.edge)
    area = _square_edge(size) ** 2
    distance = np.abs(np.log(found.astype(np.float64).prod(axis=1) / area))
    aspects = aspects_of(found)
    order = np.lexsort((distance, aspects))
    _, first = np.unique(aspects[order], return_index=True)
    return found[order][first]


def _square_edge(size: SizeSpec) -> float:
    """Return the edge in pixels of a square of the resolution."""
    return math.sqrt(size.resolution * MEGAPIXEL) if size.unit == "megapixels" else size.resolution


def _rounded(aspects: Floats, size: SizeSpec, edge: int) -> Sizes:
    """Return the sizes [N, 2] of ``aspects``, their edges rounded."""
    square = _square_edge(size)
    if size.unit == "shorter_edge":
        exact = np.stack([square * np.maximum(aspects, 1), square / np.minimum(aspects, 1)], axis=1)
    else:
        exact = np.stack([square * np.sqrt(aspects), square / np.sqrt(aspects)], axis=1)
    return (np.maximum(np.rint(exact / edge), 1) * edge).astype(np.int32)


def _all_sizes(size: SizeSpec, edge: int) -> Sizes:
    """Return every size that rounding gives, whatever the aspect."""
    square = _square_edge(size) / edge
    if size.unit == "shorter_edge":
        shortest = max(round(square), 1)
        longer = np.arange(shortest, max(math.ceil(square * HIGHEST_ASPECT), shortest) + 1)
        upright = np.stack([np.full(len(longer), shortest), longer], axis=1)
        return (np.concatenate([upright, upright[1:, ::-1]]) * edge).astype(np.int32)
    # A side of n edges comes from n - 1/2 to n + 1/2; a pair, where the area lies between.
    sides = np.arange(1, max(math.ceil(square * math.sqrt(HIGHEST_ASPECT)), 1) + 1)
    low, high = (
        np.multiply.outer(sides - 0.5, sides - 0.5),
        np.multiply.outer(sides + 0.5, sides + 0.5),
    )
    is_near = (low <= max(square**2, low.min())) & (square**2 <= high)
    return ((np.argwhere(is_near) + 1) * edge).astype(np.int32)


def nearest(aspects: Floats, sizes: Sizes) -> Numbers:
    """Return which of ``sizes`` [K, 2], sorted by aspect, is nearest to each of ``aspects`` [N]."""
    known = np.log(aspects_of(sizes))
    wanted = np.log(aspects)
    after = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(known[before] - wanted) <= np.abs(known[after] - wanted)
    return np.where(is_before, before, after)


def assign(sizes: Sizes, images: Sequence[Digest], spec: DatasetSpec) -> Assigned:
    """Return the bucket of each image.

    Args:
        sizes: Widths and heights [N, 2] of the images.
        images: Their digests, from which a random aspect is drawn.
        spec: What their dataset wants.
    """
    buckets = bucket_sizes(spec.size, spec.buckets)
    crop = spec.crop
    if crop.aspect == "preserve":
        return _limited(sizes, buckets, nearest(aspects_of(sizes), buckets), spec)
    if crop.aspect == "square":
        return _limited(sizes, buckets, np.repeat(nearest(np.ones(1), buckets), len(sizes)), spec)
    choices = nearest(np.array(crop.aspects), buckets)
    allowed = np.stack(
        [_is_allowed(sizes, buckets, np.full(len(sizes), one), spec) for one in choices], axis=1
    )
    chosen = _chosen(aspects_of(sizes), images, allowed, crop)
    return Assigned(sizes=buckets, bucket=np.where(chosen == NONE, NONE, choices[chosen]))


def _limited(sizes: Sizes, buckets: Sizes, bucket: Numbers, spec: DatasetSpec) -> Assigned:
    allowed = _is_allowed(sizes, buckets, bucket, spec)
    return Assigned(sizes=buckets, bucket=np.where(allowed, bucket, NONE))


def _is_allowed(
    sizes: Sizes, buckets: Sizes, bucket: Numbers, spec: DatasetSpec
) -> NDArray[np.bool_]:
    """Return which images [N] may take ``bucket`` [N] without being enlarged too much."""
    fitted = fit(sizes, buckets[bucket], spec.size, spec.crop)
    is_made = fitted.resized.astype(np.int64).prod(axis=1) <= MAX_PIXELS
    limit = math.inf if spec.size.max_upscale is None else spec.size.max_upscale
    is_allowed: NDArray[np.bool_] = is_made & (fitted.scale <= limit)
    return is_allowed


def _chosen(
    aspects: Floats, images: Sequence[Digest], allowed: NDArray[np.bool_], crop: CropSpec
) -> Numbers:
    """Return which of the crop's aspects each image takes of those allowed [N, A], or -1."""
    if crop.aspect == "closest":
        distance = np.abs(np.log(aspects)[:, None] - np.log(np.array(crop.aspects)))
        best = np.where(allowed, distance, np.inf).argmin(axis=1)
        return np.where(allowed.any(axis=1), best, NONE)
    chosen = np.full(len(images), NONE, dtype=np.int64)
    for row, image in enumerate(images):
        choices = np.flatnonzero(allowed[row])
        if len(choices):
            word = drawn_words("aspect", crop.seed, str(image))[0]
            chosen[row] = choices[drawn_below(len(choices), word)]
    return chosen


def merge_small(
    assigned: Assigned, sizes: Sizes, spec: DatasetSpec, *, batch_size: int
) -> tuple[Assigned, Numbers]:
    """Return buckets each of which makes a batch, and the bucket that each image had before [N].

    The smallest joins the neighbour of nearest aspect until all are large enough. One whose images
    the neighbour would enlarge too much stays, as does the last; repeats fill them.
    """
    before = assigned.bucket
    bucket = before.copy()
    known = np.log(aspects_of(assigned.sizes))
    counts = np.bincount(bucket[bucket >= 0], minlength=len(known))
    is_settled = counts * spec.sampling.repeats >= batch_size
    while spec.buckets.small == "merge" and (counts > 0).sum() > 1:
        small = np.flatnonzero((counts > 0) & ~is_settled)
        if not len(small):
            break
        one = small[counts[small].argmin()]
        others = np.flatnonzero((counts > 0) & (np.arange(len(counts)) != one))
        other = others[np.abs(known[others] - known[one]).argmin()]
        rows = np.flatnonzero(bucket == one)
        target = np.full(len(rows), other)
        if not _is_allowed(sizes[rows], assigned.sizes, target, spec).all():
            is_settled[one] = True
            continue
        bucket[rows] = other
        counts[other] += counts[one]
        counts[one] = 0
        is_settled[other] = counts[other] * spec.sampling.repeats >= batch_size
    return Assigned(sizes=assigned.sizes, bucket=bucket), before
