"""What a merge tells about itself: how far each layer is from the plain weighted sum.

Imports no torch: reports travel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LayerReport", "MergeReport", "RenamedToken", "relative_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One target of a merged adapter."""

    component: str
    module: str
    rank: int
    reference_energy: float
    """Squared Frobenius norm of the sum of w_i dW_i."""
    residual_energy: float
    """Squared Frobenius norm of what the merged adapter adds, less that sum."""
    truncation: float
    """Relative error of cutting what the method made of the layer to its rank."""

    @property
    def error(self) -> float:
        """Return the relative Frobenius error against the sum of w_i dW_i."""
        return relative_error(self.residual_energy, self.reference_energy)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamedToken:
    """A learned token that had to give way to another adapter's of the same name."""

    position: int
    """Its adapter's place among those merged, from 0."""
    text: str
    renamed_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What became of every target and token."""

    layers: Sequence[LayerReport]
    renamed: tuple[RenamedToken, ...] = ()

    @property
    def error(self) -> float:
        """Return the relative error against the sum of w_i dW_i over all layers together."""
        residual = math.fsum(layer.residual_energy for layer in self.layers)
        return relative_error(residual, math.fsum(layer.reference_energy for layer in self.layers))

    @property
    def max_rank(self) -> int:
        """Return the largest rank of a layer, 0 without any."""
        return max((layer.rank for layer in self.layers), default=0)


def relative_error(residual_energy: float, reference_energy: float) -> float:
    """Return the square root of their ratio: 0 for 0 of 0, infinity for something of 0."""
    if residual_energy <= 0:
        return 0.0
    return math.sqrt(residual_energy / reference_energy) if reference_energy > 0 else math.inf
