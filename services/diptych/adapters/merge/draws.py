"""Random numbers of a merge: named by seed, adapter and target, so that nothing else moves them.

Philox (Salmon et al. 2011) is a counter-based generator: its n-th number is a function of key and
n. Keyed like this, a target's draws depend neither on which targets were merged before it nor on
the device or the number of threads, and flipping the signs of factors leaves them alone.
"""

import hashlib
import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diptych.adapters.adapter import Target
from diptych.digest import canonical_bytes

__all__ = ["Draw", "chance_of", "keep_by_chance", "keep_by_chances"]

_RANGE: Final = 1 << 32


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

    def uniform(self, count: int, device: torch.device) -> Tensor:
        """Return ``count`` whole numbers, each of 0 to 2^32 - 1 alike, minus 2^31; [count] int32.

        The subtraction keeps their order and makes them fit.
        """
        raw = np.random.Philox(key=self._key).random_raw(math.ceil(count / 2))
        halves = raw.astype("<u8", copy=False).view("<u4")[:count]
        return torch.from_numpy((halves ^ np.uint32(1 << 31)).view(np.int32)).to(device)


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
    limit = round(chance * _RANGE) - (1 << 31)
    return (draw.uniform(shape.numel(), device) < limit).view(shape)


def keep_by_chances(draw: Draw, chances: Tensor) -> Tensor:
    """Return which values are kept, each with its own of ``chances``: bool of the same shape."""
    numbers = draw.uniform(chances.numel(), chances.device).view(chances.shape)
    return numbers.double() + (1 << 31) < chances.double() * _RANGE
