"""A solver written once, on symbols: every quantity is a row of six coefficients.

All solvers here are linear in what they know: the latents, what they remember, the model's
output and fresh noise. So a quantity is a vector in the basis (x, x_last, h1, h2, model, noise),
a paper's formula is arithmetic on such vectors, and what comes out is the row of a matrix that
advances any image by that formula.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "H1",
    "H2",
    "MODEL",
    "NOISE",
    "NUM_INPUTS",
    "NUM_STATES",
    "X_LAST",
    "ZERO",
    "Evaluation",
    "Row",
    "X",
]

Row = NDArray[np.float64]
"""Coefficients over (x, x_last, h1, h2, model, noise), [6]."""

NUM_STATES: Final = 4
"""x, x_last, h1, h2: what an image carries from one evaluation to the next."""
NUM_INPUTS: Final = 6


def _basis() -> tuple[Row, ...]:
    identity = np.eye(NUM_INPUTS)
    identity.flags.writeable = False
    return tuple(identity)


X, X_LAST, H1, H2, MODEL, NOISE = _basis()
ZERO: Final[Row] = 0.0 * X


def _zero() -> Row:
    return ZERO


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One call of the model and what becomes of its output."""

    timestep: float
    denoised: Row
    """Estimate of x0 from the latents before this evaluation."""
    x: Row
    """The latents after it; likewise the three slots of memory below."""
    x_last: Row = field(default_factory=_zero)
    h1: Row = field(default_factory=_zero)
    h2: Row = field(default_factory=_zero)
    c_in: float = 1.0
    """The model sees ``c_in * x``."""
    draws_noise: bool = False
    """A noise is drawn, even where its coefficient is zero: the generator's order matters."""

    def matrix(self) -> NDArray[np.float64]:
        """Return the new (x, x_last, h1, h2) as rows, [4, 6]."""
        return np.stack([self.x, self.x_last, self.h1, self.h2])
