"""Random numbers of a merge: named by seed, adapter and target, so that nothing else moves them.

Philox (Salmon et al. 2011) is a counter-based generator: its n-th number is a function of key and
n. Keyed like this, a target's draws depend neither on which targets were merged before it nor on
the device or the number of threads, and flipping the signs of factors leaves them alone.

A chance is one of 2^32, yet the highest byte of a number decides 255 times of 256: the other
three are drawn for the rest alone, from a part of the sequence that the first never reaches.
"""

import hashlib
import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.adapters.adapter import Target
from diptych.digest import canonical_bytes

__all__ = ["Draw", "chance_of", "keep_by_chance", "keep_by_chances"]

_RANGE: Final = 1 << 32
_LOWER_BITS: Final = 24
_APART: Final = 1 << 192
"""Where the counter of the lower bytes begins."""


class Draw:
    """The numbers drawn for one target of one adapter."""

    def __init__(self, seed: int, position: int, target: Target) -> None:
        """Begin anew; equal arguments give equal numbers.

        Args:
            seed: The merge's.
            position: The adapter's place among those that are merged, from 0.
            target: What is merged.
        """
        name = canonical_bytes([seed, position, str(target.component), target.module])
        self._key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")

    def first_bytes(self, count: int) -> NDArray[np.uint8]:
        """Return the highest byte of each of ``count`` numbers of 0 to 2^32 - 1: [count]."""
        raw = np.random.Philox(key=self._key).random_raw(math.ceil(count / 8))
        return raw.astype("<u8", copy=False).view(np.uint8)[:count]

    def other_bytes(self, count: int) -> NDArray[np.uint64]:
        """Return the three lower bytes of the first ``count`` numbers that are asked for them."""
        raw = np.random.Philox(key=self._key, counter=_APART).random_raw(count)
        return raw >> np.uint64(64 - _LOWER_BITS)


def chance_of(probability: float) -> float:
    """Return the chance that ``keep_by_chance`` really gives for a probability in (0, 1]."""
    return max(1, round(probability * _RANGE)) / _RANGE


def keep_by_chance(draw: Draw, shape: torch.Size, chance: float, device: torch.device) -> Tensor:
    """Return which values are kept, each with ``chance``: bool of ``shape``.

    Args:
        draw: Names the numbers.
        shape: What is drawn for.
        chance: As ``chance_of`` gives it.
        device: Where the result is wanted.
    """
    if chance >= 1:
        return torch.ones(shape, dtype=torch.bool, device=device)
    high, low = divmod(round(chance * _RANGE), 1 << _LOWER_BITS)
    first = draw.first_bytes(shape.numel())
    kept = first < high
    if low:
        undecided = np.flatnonzero(first == high)
        kept[undecided] = draw.other_bytes(len(undecided)) < low
    return torch.from_numpy(kept).view(shape).to(device)


def keep_by_chances(draw: Draw, chances: Tensor) -> Tensor:
    """Return which values are kept, each with its own of ``chances``: bool of the same shape."""
    limits = (chances.double().cpu() * _RANGE).round().long().clamp(min=1).view(-1).numpy()
    high, low = limits >> _LOWER_BITS, limits & ((1 << _LOWER_BITS) - 1)
    first = draw.first_bytes(limits.size)
    kept = first < high
    undecided = np.flatnonzero(first == high)
    kept[undecided] = draw.other_bytes(len(undecided)) < low[undecided].astype(np.uint64)
    return torch.from_numpy(kept).view(chances.shape).to(chances.device)
