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

_TOLERANCE: Final = 1e-13
"""Share of the energy that may be missed by iterating; rounding to float32 costs as much."""
_PLENTY: Final = 0.1
"""Share of the energy that the first guess misses at most, as a rule."""
_MAX_STAGES: Final = 6
_MAX_DEGREE: Final = 5
_LEAST_GAIN: Final = 50.0
"""A stage that divides what is missed by less than this is not worth its time."""
_PROBES: Final = 8
_SPARE: Final = 8
"""Directions beyond those kept that the last step, in float64, may mix with them."""
_TINY: Final = 1e-30
_WELL_APART: Final = 1e-4
"""Columns whose share of their own falls below this are made orthogonal the slow way."""
_SMALL: Final = 256
"""Up to this many rows an exact decomposition is quicker than iterating."""
_ROUNDING: Final = 1e-14
"""Singular values below this share of what the terms of a product amount to are its rounding."""
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

    The result is exact up to rounding; where the terms of the product cancel, it is zero.
    """
    left, left_triangle = torch.linalg.qr(factors.up)
    right, right_triangle = torch.linalg.qr(factors.down.T)
    u, values, vh = torch.linalg.svd(left_triangle @ right_triangle.T, full_matrices=False)
    terms = float((factors.up.norm(dim=0) * factors.down.norm(dim=1)).sum())
    if math.isfinite(terms):
        values = torch.where(values > _ROUNDING * terms, values, 0.0)
    energy = float(values.square().sum())
    count = pick(values.square(), energy) or len(values)
    kept = Triplets(left=left @ u[:, :count], values=values[:count], right=vh[:count] @ right.T)
    return _cut(kept, energy)


def cut_dense(matrix: Tensor, pick: PickRank, start: Factors) -> Cut:
    """Cut a dense matrix [out, in] float32 that lies near the span of ``start``.

    Subspace iteration (Halko et al. 2011, section 4.5) from the span of the factors that made the
    matrix and a few more directions, with Chebyshev filters, in float32; then one step of
    Rayleigh and Ritz in float64. It ends when another iteration would find less than a part in
    10^13 of the energy. Where that would take long, the decomposition is exact.

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
    energy = float(torch.linalg.vector_norm(exact)) ** 2
    found = None
    if energy > 0 and matrix.shape[0] > max(_SMALL, 3 * (start.up.shape[1] + _PROBES)):
        found = _iterate(matrix, exact, pick, start.up, energy)
    return _cut(found or _decompose(exact, pick, energy), energy)


def _iterate(
    matrix: Tensor, exact: Tensor, pick: PickRank, span: Tensor, energy: float
) -> Triplets | None:
    """Return the leading triplets, None when they would take longer than a decomposition."""
    basis = torch.cat([span, _probe_directions(len(span), span.device)], dim=1).float()
    basis = matrix @ (matrix.T @ _orthonormal(basis).float())
    kept, gained = 0.0, 1.0
    for _ in range(_MAX_STAGES):
        basis = _orthonormal(basis / basis.norm(dim=0).clamp(min=_TINY)).float()
        seen = matrix.T @ basis
        squares, rotation = torch.linalg.eigh((seen.T @ seen).double())
        squares, rotation = squares.flip(0), rotation.flip(1).float()
        count = pick(squares.clamp(min=0), energy)
        if count is None:
            return None
        basis, seen = basis @ rotation, seen @ rotation
        now = float(squares[:count].sum())
        if (now - kept) / energy <= gained * _TOLERANCE:
            leading = _orthonormal(basis[:, : count + _SPARE])
            return _ritz(exact, leading, pick, energy)
        floor = max(float(squares[-1]), _NEGLIGIBLE * float(squares[0]))
        degree, gained = _filter_degree(2 * float(squares[count - 1]) / floor - 1)
        if gained < _LEAST_GAIN:
            return None
        basis, kept = _filtered(matrix, basis, seen, floor, degree), now
    return None


def _orthonormal(basis: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span, float64.

    By Cholesky, which squares the condition: in three products of matrices while that leaves
    more digits than float32 has, else by reflections.
    """
    wide = basis.double()
    root, failed = torch.linalg.cholesky_ex(wide.T @ wide)
    pivots = root.diagonal()
    if int(failed) == 0 and float(pivots.min()) > _WELL_APART * float(pivots.max()):
        across: Tensor = torch.linalg.solve_triangular(root, wide.T, upper=False)
        return across.T
    reflected: Tensor = torch.linalg.qr(wide)[0]
    return reflected


def _filter_degree(place: float) -> tuple[int, float]:
    """Return a filter's degree, and by what it divides the energy that is not found yet.

    Args:
        place: Where the smallest wanted square lies, when what is unwanted lies in [-1, 1].
    """
    angle = math.acosh(max(place, 1.0))
    degree = 2
    while degree < _MAX_DEGREE and math.cosh(degree * angle) ** 2 * _TOLERANCE < _PLENTY:
        degree += 1
    return degree, math.cosh(degree * angle) ** 2


def _filtered(matrix: Tensor, basis: Tensor, seen: Tensor, floor: float, degree: int) -> Tensor:
    """Apply to ``basis`` the Chebyshev polynomial of M M^T that is small on [0, ``floor``].

    Zhou et al. 2006, algorithm 4.1, without the scaling that columns get later.

    Args:
        matrix: M.
        basis: Ritz vectors, [out, b].
        seen: M^T times them.
        floor: The smallest square that the basis has, as good a guess as any of the next.
        degree: At least 1.
    """
    half = floor / 2
    last, current = basis, torch.addmm(basis, matrix, seen, beta=-1, alpha=1 / half)
    for _ in range(degree - 1):
        before = last.add(current, alpha=2)
        applied = torch.addmm(before, matrix, matrix.T @ current, beta=-1, alpha=2 / half)
        last, current = current, applied
    return current


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
