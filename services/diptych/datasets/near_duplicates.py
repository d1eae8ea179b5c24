"""Pictures that look alike: 64-bit perceptual hashes, and pairs of them a few bits apart.

The hash is the signs of a picture's 63 lowest cosine frequencies against their median (Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2). Pairs are
found by multi-index hashing (Norouzi et al., "Fast Search in Hamming Space with Multi-Index
Hashing", 2012): two hashes ``d`` bits apart agree to within ``d // 4`` bits in one of four words.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["near_duplicates", "perceptual_hash"]

_SIDE: Final = 32
_KEPT: Final = 8
_MIN_CONTRAST: Final = 2.0
"""Grey levels of standard deviation: below it a picture has no structure to tell it by."""
_NUM_WORDS: Final = 4
_WORD_BITS: Final = 16
_PAIRS_AT_ONCE: Final = 2**22

Hashes = NDArray[np.uint64]


def _cosines() -> NDArray[np.float64]:
    """Return the lowest rows [8, 32] of the type-II discrete cosine transform."""
    places = (2 * np.arange(_SIDE) + 1) * math.pi / (2 * _SIDE)
    return np.cos(np.arange(_KEPT)[:, None] * places[None, :])


_COSINES: Final = _cosines()


def perceptual_hash(pixels: NDArray[np.uint8]) -> int | None:
    """Return 64 bits that similar pictures share, None for one without structure.

    Args:
        pixels: [H, W, 3].
    """
    small = (
        Image.fromarray(pixels)
        .convert("L")
        .resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    )
    grey = np.asarray(small, dtype=np.float64)
    if float(grey.std()) < _MIN_CONTRAST:
        return None
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    frequencies[0] = 0.0
    signs = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(signs).tobytes(), "big")


def near_duplicates(hashes: Sequence[int | None], max_distance: int) -> dict[int, int]:
    """Return, for each picture that resembles an earlier one that is kept, the first such.

    Args:
        hashes: In the order in which pictures are kept; None resembles nothing.
        max_distance: Bits in which resembling hashes may differ, at most 15.
    """
    places = [place for place, value in enumerate(hashes) if value is not None]
    values = np.array([hashes[place] for place in places], dtype=np.uint64)
    unique, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    neighbours: dict[int, list[int]] = {}
    for one, other in _close_pairs(unique, max_distance):
        low, high = sorted((int(first[one]), int(first[other])))
        neighbours.setdefault(high, []).append(low)
    original: dict[int, int] = {}
    for position in range(len(places)):
        earliest = int(first[inverse[position]])
        if earliest != position:
            original[position] = original.get(earliest, earliest)
            continue
        kept = [low for low in neighbours.get(position, ()) if low not in original]
        if kept:
            original[position] = min(kept)
    return {places[position]: places[other] for position, other in original.items()}


def _close_pairs(hashes: Hashes, max_distance: int) -> Iterator[tuple[int, int]]:
    """Yield positions of unlike hashes at most ``max_distance`` bits apart, each pair once."""
    seen: set[tuple[int, int]] = set()
    for word in range(_NUM_WORDS):
        keys = ((hashes >> np.uint64(word * _WORD_BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**_WORD_BITS + 1))
        for mask in _masks(max_distance // _NUM_WORDS):
            for ones, others in _candidates(keys ^ mask, order, starts):
                distance = np.bitwise_count(hashes[ones] ^ hashes[others])
                close = (ones < others) & (distance <= max_distance)
                for pair in zip(ones[close].tolist(), others[close].tolist(), strict=True):
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _candidates(
    targets: NDArray[np.int64], order: NDArray[np.int64], starts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield positions and the positions whose word is their target, some millions at a time."""
    counts = starts[targets + 1] - starts[targets]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(targets):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE)))
        here = counts[begin:end]
        ones = np.repeat(np.arange(begin, begin + len(here)), here)
        within = np.arange(len(ones)) - np.repeat(np.cumsum(here) - here, here)
        yield ones, order[starts[targets[ones]] + within]
        begin = end


def _masks(radius: int) -> list[int]:
    """Return all words with at most ``radius`` bits set."""
    return [
        sum(1 << bit for bit in bits)
        for size in range(radius + 1)
        for bits in combinations(range(_WORD_BITS), size)
    ]
