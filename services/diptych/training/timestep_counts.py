"""Which timesteps an expert was trained on: counted exactly, and never outside its range."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from diptych.errors import TimestepOutOfRange

__all__ = ["TimestepCounts"]

_NUM_BINS: Final = 50


class TimestepCounts:
    """How often each timestep of one range was trained; owned by the loop.

    ``counts`` are this process's own since it started; those of others, and of before a resume,
    are added by ``add_counts``.
    """

    def __init__(self, timesteps: range) -> None:
        """Count the ascending ``timesteps``, which are not empty."""
        self._first: Final = timesteps[0]
        self._last: Final = timesteps[-1]
        self.counts: Tensor = torch.zeros(len(timesteps), dtype=torch.int64)

    def add(self, timesteps: Tensor) -> None:
        """Count int64 ``timesteps`` [B] that are about to be trained.

        Raises:
            TimestepOutOfRange: One is not in the range; none is counted then.
        """
        own = timesteps.to("cpu", torch.int64)
        for outside in own[(own < self._first) | (own > self._last)].tolist():
            raise TimestepOutOfRange(timestep=outside, first=self._first, last=self._last)
        self.counts += torch.bincount(own - self._first, minlength=len(self.counts))

    def add_counts(self, counts: Tensor) -> None:
        """Add the ``counts`` [N] int64 of the same range."""
        self.counts += counts.to("cpu", torch.int64)

    def summary(self) -> Mapping[str, object]:
        """Return the histogram as the event ``result`` has it: plain JSON values.

        ``first`` and ``last`` are the smallest and the largest timestep that was trained.
        """
        seen = torch.nonzero(self.counts).flatten().tolist()
        width = -(-len(self.counts) // _NUM_BINS)
        bins = [int(self.counts[at : at + width].sum()) for at in range(0, len(self.counts), width)]
        return {
            "first": self._first + seen[0] if seen else None,
            "last": self._first + seen[-1] if seen else None,
            "begin": self._first,
            "bin_width": width,
            "bins": bins,
        }
