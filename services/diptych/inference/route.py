"""The evaluations an image passes through, as numbers known before its first step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.inference.trajectory import Expert

__all__ = ["Route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a trajectory does, one entry per UNet evaluation; shared by the images of a request.

    The engine reads the first four fields. The rest is for the executor, which wrote it.
    """

    experts: tuple[Expert, ...]
    num_rows: tuple[int, ...]
    """2 where guidance acts, else 1."""
    steps: tuple[int, ...]
    """Step an evaluation belongs to, from 1; a step may take more than one."""
    num_steps: int
    coefficients: NDArray[np.float32]
    """[E, K], a line of numbers per evaluation; ``executor`` lays it out."""
    needs_noise: tuple[bool, ...]
    start: tuple[float, float]
    """Weights (a, s) of the first latents x = a * source + s * noise."""

    def __len__(self) -> int:
        """Return the number of evaluations."""
        return len(self.experts)

    def work(self) -> dict[Expert, int]:
        """Return the UNet rows that each expert computes over the whole route."""
        rows: dict[Expert, int] = {}
        for expert, num_rows in zip(self.experts, self.num_rows, strict=True):
            rows[expert] = rows.get(expert, 0) + num_rows
        return rows

    def completes_step(self, position: int) -> bool:
        """Return whether evaluation ``position`` is the last one of its step."""
        return position + 1 == len(self) or self.steps[position + 1] != self.steps[position]
