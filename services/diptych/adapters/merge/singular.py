"""The best approximation of a given rank: by factors, exactly, or by subspace iteration.

Eckart and Young 1936: no matrix of rank r is nearer than the r largest singular triplets. All
results are in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.merge.task_vectors import Factors, with_signs_settled

__all__ = ["Cut", "PickRank", "Triplets", "cut_dense", "cut_factors", "pick_rank"]

PickRank = Callable[[Tensor, float], int | None]
"""From squared singular values (falling) and their whole sum, how many to keep; None: more."""

_TOLERANCE: Final = 1e-12
"""Share of the energy that another iteration may still find when iterating ends."""
_COARSE_TOLERANCE: Final = 1e-7
_MAX_COARSE: Final = 12
_MAX_FINE: Final = 16
_PROBES: Final = 16
_SMALL: Final = 256
"""Up to this many rows an exact decomposition is quicker than iterating."""
_NEGLIGIBLE: Final = 1e-7
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Triplets:
    """Singular values with their vectors: left [out, k], values [k] falling, right [k, in]."""

    left: Tensor
    values: Tensor
    right: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """What was kept of a matrix."""

    factors: Factors
    """Singular values are shared evenly between both sides; signs are settled."""
    energy: float
    """Squared Frobenius norm of the matrix."""
    kept: float
    """The part of it that the factors have."""

    @property
    def truncation(self) -> float:
        """Return the relative Frobenius error of the cut."""
        return math.sqrt(max(0.0, 1 - self.kept / self.energy)) if self.energy > 0 else 0.0


def pick_rank(*, rank: int | None = None, energy_share: float | None = None) -> PickRank:
    """Return how many singular values to keep: a number, a share of the energy, or all there are.

    All there are means those above rounding. At least one is kept.
    """

    def pick(squares: Tensor, energy: float) -> int | None:
        if rank is not None:
            return min(rank, len(squares))
        if energy_share is None:
            return max(1, int((squares > _NEGLIGIBLE**2 * squares[0]).sum()))
        enough = squares.cumsum(0) >= energy_share * energy * (1 - _TOLERANCE)
        return int(enough.to(torch.int8).argmax()) + 1 if bool(enough.any()) else None

    return pick


def cut_factors(factors: Factors, pick: PickRank) -> Cut:
    """Cut a product without forming it: QR of both sides and the SVD of a small matrix.

    The result is exact up to rounding.
    """
    left, left_triangle = torch.linalg.qr(factors.up)
    right, right_triangle = torch.linalg.qr(factors.down.T)
    u, values, vh = torch.linalg.svd(left_triangle @ right_triangle.T, full_matrices=False)
    energy = float(values.square().sum())
    count = pick(values.square(), energy) or len(values)
    kept = Triplets(left=left @ u[:, :count], values=values[:count], right=vh[:count] @ right.T)
    return _cut(kept, energy)


def cut_dense(matrix: Tensor, pick: PickRank, start: Factors) -> Cut:
    """Cut a dense matrix [out, in] float32 that lies near the span of ``start``.

    Subspace iteration (Halko et al. 2011, section 4.5) from the span of the factors that made the
    matrix and a few more directions, first in float32, then in float64, until another iteration
    would not find a part in 10^12 of the energy; where that would take long, an exact
    decomposition.

    Args:
        matrix: What is cut.
        pick: How many singular values are kept.
        start: Factors whose outer sides span most of the matrix.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = Factors(up=start.down.T, down=start.up.T)
        cut = cut_dense(matrix.T, pick, turned)
        swapped = Factors(up=cut.factors.down.T, down=cut.factors.up.T)
        return Cut(factors=with_signs_settled(swapped), energy=cut.energy, kept=cut.kept)
    exact = matrix.double()
    energy = float(exact.square().sum())
    found = None
    if energy > 0 and matrix.shape[0] > max(_SMALL, 3 * (start.up.shape[1] + _PROBES)):
        found = _iterate(matrix, exact, pick, start.up, energy)
    return _cut(found or _decompose(exact, pick, energy), energy)


def _iterate(
    matrix: Tensor, exact: Tensor, pick: PickRank, span: Tensor, energy: float
) -> Triplets | None:
    """Return the leading triplets, None when they would take longer than a decomposition."""
    probes = _probe_directions(len(span), span.device)
    basis = torch.linalg.qr(torch.cat([span, probes], dim=1).float())[0]
    coarse = _refine(matrix, basis, pick, energy, _COARSE_TOLERANCE, _MAX_COARSE)
    if coarse is None:
        return None
    basis = torch.linalg.qr(coarse.double())[0]
    fine = _refine(exact, basis, pick, energy, _TOLERANCE, _MAX_FINE)
    if fine is None:
        return None
    return _ritz(exact, torch.linalg.qr(fine)[0], pick, energy)


def _refine(
    matrix: Tensor,
    basis: Tensor,
    pick: PickRank,
    energy: float,
    tolerance: float,
    max_iterations: int,
) -> Tensor | None:
    """Iterate until the energy in the kept part stands still; None if it will not in time."""
    kept, gain = 0.0, math.inf
    for iteration in range(max_iterations):
        seen = matrix.T @ basis
        squares = torch.linalg.eigvalsh((seen.T @ seen).double()).flip(0).clamp(min=0)
        count = pick(squares, energy)
        if count is None:
            return None
        now = float(squares[:count].sum())
        gain, last = (now - kept) / energy, gain
        kept = now
        basis = matrix @ seen
        if gain <= tolerance:
            return basis
        if iteration >= 3 and gain > tolerance * (last / gain) ** (max_iterations - iteration):
            return None
        basis = torch.linalg.qr(basis)[0]
    return None


def _ritz(exact: Tensor, basis: Tensor, pick: PickRank, energy: float) -> Triplets:
    """Return the best triplets inside the span of ``basis`` (Rayleigh and Ritz)."""
    seen = exact.T @ basis
    squares, rotation = torch.linalg.eigh(seen.T @ seen)
    squares, rotation = squares.flip(0).clamp(min=0), rotation.flip(1)
    count = pick(squares, energy) or len(squares)
    values = squares[:count].sqrt()
    right = (seen @ rotation[:, :count]) / values.clamp(min=torch.finfo(values.dtype).tiny)
    return Triplets(left=basis @ rotation[:, :count], values=values, right=right.T)


def _decompose(exact: Tensor, pick: PickRank, energy: float) -> Triplets:
    """Return the leading triplets from the eigenvectors of M M^T; rows are the shorter side."""
    rows = torch.eye(exact.shape[0], dtype=exact.dtype, device=exact.device)
    return _ritz(exact, rows, pick, energy)


def _probe_directions(length: int, device: torch.device) -> Tensor:
    """Return [length, probes] that no matrix was made to be orthogonal to."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(length, _PROBES, generator=generator, dtype=torch.float64).to(device)


def _cut(kept: Triplets, energy: float) -> Cut:
    roots = kept.values.sqrt()
    factors = with_signs_settled(Factors(up=kept.left * roots, down=roots[:, None] * kept.right))
    return Cut(factors=factors, energy=energy, kept=float(kept.values.square().sum()))
