"""Random numbers that are named by what they are for: the same ones on every machine, for ever.

A draw is a function of its parts - a purpose, a seed, an image's digest, an epoch - so nothing has
to be drawn in order, and a run can go on from anywhere. Only raw bits of generators are used, which
no release of a library changes.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.digest import canonical_bytes

__all__ = ["drawn_below", "drawn_bits", "drawn_order", "drawn_shares", "drawn_words", "share_of"]

_MANTISSA_BITS: Final = 53
_WORD_BITS: Final = 64


def drawn_words(*parts: object) -> tuple[int, int, int, int]:
    """Return four numbers of 64 bits; ``parts`` are what ``canonical_bytes`` can spell."""
    found = hashlib.sha256(canonical_bytes(list(parts))).digest()
    first, second, third, fourth = (int.from_bytes(found[at : at + 8]) for at in range(0, 32, 8))
    return first, second, third, fourth


def share_of(word: int) -> float:
    """Return a number of 64 bits as a share in [0, 1)."""
    return (word >> (_WORD_BITS - _MANTISSA_BITS)) * 2.0**-_MANTISSA_BITS


def drawn_below(limit: int, word: int) -> int:
    """Return a number of 64 bits as one in 0 to ``limit`` - 1."""
    return word * limit >> _WORD_BITS


def drawn_bits(count: int, *parts: object) -> NDArray[np.uint64]:
    """Return ``count`` numbers of 64 bits; a longer draw of the same parts begins with them."""
    key = int.from_bytes(hashlib.sha256(canonical_bytes(list(parts))).digest()[:16])
    return np.random.Philox(key=key).random_raw(count)


def drawn_shares(count: int, *parts: object) -> NDArray[np.float64]:
    """Return ``count`` shares in [0, 1)."""
    bits = drawn_bits(count, *parts) >> np.uint64(_WORD_BITS - _MANTISSA_BITS)
    return bits.astype(np.float64) * 2.0**-_MANTISSA_BITS


def drawn_order(count: int, *parts: object) -> NDArray[np.int64]:
    """Return 0 to ``count`` - 1 in a drawn order."""
    return np.argsort(drawn_bits(count, *parts), kind="stable")
