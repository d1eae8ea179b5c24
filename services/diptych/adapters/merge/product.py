"""Merging in the space of updates: operators act on dW = alpha / r * up @ down itself.

What stays a linear combination is merged on the factors, exactly and without forming dW. The
rest is formed one target at a time, so a merge never holds more than one layer's updates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import MAX_RANK, LowRank, Target
from diptych.adapters.merge.draws import Draw
from diptych.adapters.merge.operators import combine, slerp_weights
from diptych.adapters.merge.report import LayerReport
from diptych.adapters.merge.singular import Cut, PickRank, cut_dense, cut_factors, pick_rank
from diptych.adapters.merge.spec import MergeSpec, Takes
from diptych.adapters.merge.task_vectors import Factors, dense_update, factors_of
from diptych.errors import AdapterMismatch, FieldViolation, InvalidRequest

__all__ = ["Part", "WeightOf", "merge_target", "report_of", "result_dtype"]

WeightOf = Callable[[Target], Tensor]
"""Gives the base model's weight [out, in, ...] of a target."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What one adapter brings to a target."""

    position: int
    """The adapter's place among those merged, from 0."""
    weight: float
    low_rank: LowRank


_ROUNDING: Final = 2e-15
"""A sum below this share of its terms' magnitudes is their rounding."""
_ROWS: Final = 256
"""Rows of an update that are in float64 at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Updates:
    """The updates of one target, on the merge's device."""

    parts: Sequence[Part]
    factors: Sequence[Factors]
    base: Tensor | None
    """The base model's weight, where a DoRA needs it."""

    def dense(self, index: int) -> Tensor:
        """Return dW of one part, [out, in] float64."""
        return dense_update(self.parts[index].low_rank, self.factors[index], self.base)

    def round_into(self, values: Tensor, index: int) -> None:
        """Write dW of one part into ``values`` [out, in] float32."""
        if self.parts[index].low_rank.magnitude is not None:
            values.copy_(self.dense(index))
            return
        factors = self.factors[index]
        for begin in range(0, len(values), _ROWS):
            rows = slice(begin, begin + _ROWS)
            values[rows] = factors.up[rows] @ factors.down

    @property
    def span(self) -> Factors:
        """Return all factors side by side."""
        return self.weighted([1.0] * len(self.parts))

    def weighted(self, weights: Sequence[float]) -> Factors:
        """Return the weighted sum of the factors' products, as factors."""
        pairs = zip(self.factors, weights, strict=True)
        return Factors(
            up=torch.cat([factors.up * weight for factors, weight in pairs], dim=1),
            down=torch.cat([factors.down for factors in self.factors]),
        )


def merge_target(
    target: Target,
    parts: Sequence[Part],
    spec: MergeSpec,
    *,
    weight_of: WeightOf | None,
    device: torch.device | None,
) -> tuple[LowRank, LayerReport]:
    """Merge the updates of one target.

    Args:
        target: Names the random draws.
        parts: One or more; adapters without this target take no part.
        spec: In space ``product``.
        weight_of: Needed if a part is a DoRA.
        device: Where to compute; None is where the factors are.

    Raises:
        InvalidRequest: The result needs a larger rank than adapters may have.
        AdapterMismatch: The model's weight has another shape.
    """
    dora = any(part.low_rank.magnitude is not None for part in parts)
    base = _base(target, parts, weight_of) if dora and weight_of is not None else None
    factors = [factors_of(part.low_rank, device) for part in parts]
    updates = _Updates(parts=parts, factors=factors, base=base)
    shares = [part.weight for part in parts]
    if spec.operator == "slerp":
        shares = _slerp_shares(updates, spec, len(parts))
    if spec.operator == "cat":
        low_rank, truncation = _concatenate(target, parts, spec), 0.0
    else:
        cut = _merge(target, updates, spec, shares)
        low_rank, truncation = _low_rank(target, cut.factors, parts, spec), cut.truncation
    return low_rank, _measured(target, updates, low_rank, spec, truncation)


def report_of(
    target: Target, low_rank: LowRank, reference: Factors | Tensor, truncation: float
) -> LayerReport:
    """Return how far ``low_rank`` is from the sum of w_i dW_i, given as factors or dense."""
    made = factors_of(low_rank, reference.up.device if isinstance(reference, Factors) else None)
    if isinstance(reference, Factors):
        difference = Factors(
            up=torch.cat([made.up, -reference.up], dim=1),
            down=torch.cat([made.down, reference.down]),
        )
        reference_energy, residual_energy = _energy(reference), _energy(difference)
    else:
        reference_energy = float(reference.square().sum())
        residual = made.up.to(reference.device) @ made.down.to(reference.device) - reference
        residual_energy = float(residual.square().sum())
    return LayerReport(
        component=str(target.component),
        module=target.module,
        rank=low_rank.rank,
        reference_energy=reference_energy,
        residual_energy=residual_energy,
        truncation=truncation,
    )


def result_dtype(low_ranks: Sequence[LowRank]) -> torch.dtype:
    """Return the type that holds every input's values."""
    found = low_ranks[0].up.dtype
    for low_rank in low_ranks:
        found = torch.promote_types(found, low_rank.up.dtype)
        found = torch.promote_types(found, low_rank.down.dtype)
    return found


def _base(target: Target, parts: Sequence[Part], weight_of: WeightOf) -> Tensor:
    """Return the model's weight if it is one that the parts can change."""
    weight, expected = weight_of(target), parts[0].low_rank.weight_shape
    if tuple(weight.shape) == expected:
        return weight
    raise AdapterMismatch(
        adapter=f"adapters[{parts[0].position}]",
        field=f"shape of {target.component}.{target.module}",
        made_for=str(list(expected)),
        used_on=str(list(weight.shape)),
    )


def _merge(target: Target, updates: _Updates, spec: MergeSpec, shares: Sequence[float]) -> Cut:
    pick = _rank_rule(updates, spec)
    scaled = [share * spec.scale for share in shares]
    linear = _stays_linear(spec, len(updates.parts))
    if linear and updates.base is None:
        return cut_factors(updates.weighted(scaled), pick)
    shape = torch.Size((len(updates.factors[0].up), updates.factors[0].down.shape[1]))
    if linear:
        merged = _weighted_sum(updates, scaled).float()
    else:
        buffer = updates.factors[0].up.new_empty((len(updates.parts), *shape), dtype=torch.float32)
        for index, values in enumerate(buffer):
            updates.round_into(values, index)
        draws = [Draw(spec.seed, part.position, target) for part in updates.parts]
        merged = combine(buffer.flatten(1), shares, spec, draws, shape[1]).view(shape)
        merged.mul_(spec.scale)
        del buffer
    return cut_dense(merged, pick, updates.span)


def _stays_linear(spec: MergeSpec, num_parts: int) -> bool:
    """Return whether a method's result is a weighted sum of the updates."""
    takes = spec.takes
    if takes & Takes.DENSITY and spec.kept_share < 1:
        return False
    return num_parts == 1 or not takes & Takes.ELECTION


def _rank_rule(updates: _Updates, spec: MergeSpec) -> PickRank:
    if spec.rank is not None:
        return pick_rank(rank=spec.rank)
    # A DoRA's update has full rank, so even a linear result has to be cut.
    if spec.energy is None and (spec.takes & Takes.CUT or updates.base is not None):
        return pick_rank(rank=max(part.low_rank.rank for part in updates.parts))
    return pick_rank(energy_share=spec.energy)


def _weighted_sum(updates: _Updates, weights: Sequence[float]) -> Tensor:
    total = updates.dense(0) * weights[0]
    for index in range(1, len(weights)):
        total += updates.dense(index) * weights[index]
    return total


def _slerp_shares(updates: _Updates, spec: MergeSpec, num_parts: int) -> list[float]:
    """Return what each update is multiplied by; an adapter without the target adds zeros."""
    position = 0.5 if spec.position is None else spec.position
    weights = [part.weight for part in updates.parts]
    if num_parts == 1:
        share = 1 - position if updates.parts[0].position == 0 else position
        return [weights[0] * share]
    if updates.base is None:
        first, second = updates.factors
        energies, inner = (_energy(first), _energy(second)), _inner(first, second)
    else:
        left, right = updates.dense(0), updates.dense(1)
        energies = float(left.square().sum()), float(right.square().sum())
        inner = float((left * right).sum())
    energies = weights[0] ** 2 * energies[0], weights[1] ** 2 * energies[1]
    shares = slerp_weights(energies, weights[0] * weights[1] * inner, position)
    return [weight * share for weight, share in zip(weights, shares, strict=True)]


def _concatenate(target: Target, parts: Sequence[Part], spec: MergeSpec) -> LowRank:
    """Stack the factors, the scales and weights in ``up``: exact, but for rounding ``up``."""
    dtype = result_dtype([part.low_rank for part in parts])
    ups = [
        part.low_rank.up.double() * (part.low_rank.scale * part.weight * spec.scale)
        for part in parts
    ]
    down = torch.cat([part.low_rank.down.to(dtype) for part in parts])
    _check_rank(target, len(down), spec)
    return LowRank(down=down, up=torch.cat(ups, dim=1).to(dtype), alpha=float(len(down)))


def _low_rank(target: Target, factors: Factors, parts: Sequence[Part], spec: MergeSpec) -> LowRank:
    like = parts[0].low_rank
    rank = len(factors.down)
    _check_rank(target, rank, spec)
    dtype = result_dtype([part.low_rank for part in parts])
    return LowRank(
        down=factors.down.to(like.down.device, dtype).reshape(rank, *like.down.shape[1:]),
        up=factors.up.to(like.up.device, dtype).contiguous(),
        alpha=float(rank),
    )


def _check_rank(target: Target, rank: int, spec: MergeSpec) -> None:
    if rank <= MAX_RANK:
        return
    name = f"{target.component}.{target.module}"
    if spec.energy is not None:
        problem = f"{spec.energy:g} of {name} takes rank {rank}, over the limit of {MAX_RANK}"
        raise InvalidRequest([FieldViolation(field="energy", description=problem)])
    problem = f"{spec.method} makes {name} of rank {rank}, over the limit of {MAX_RANK}"
    advice = "; use svd with a rank" if spec.operator == "cat" else "; give a rank"
    raise InvalidRequest([FieldViolation(field="rank", description=problem + advice)])


def _measured(
    target: Target, updates: _Updates, low_rank: LowRank, spec: MergeSpec, truncation: float
) -> LayerReport:
    """Compare with the sum of w_i dW_i; SLERP's weights are the shares of its two ends."""
    weights = [part.weight for part in updates.parts]
    if spec.operator == "slerp":
        position = 0.5 if spec.position is None else spec.position
        ends = (1 - position, position)
        weights = [part.weight * ends[part.position] for part in updates.parts]
    if updates.base is None:
        reference: Factors | Tensor = updates.weighted(weights)
    else:
        reference = _weighted_sum(updates, weights)
    return report_of(target, low_rank, reference, truncation)


def _energy(factors: Factors) -> float:
    """Return the squared Frobenius norm of a product, 0 where its terms cancel but for rounding."""
    terms = (factors.up.T @ factors.up) * (factors.down @ factors.down.T)
    found = float(terms.sum())
    if not math.isfinite(found):
        return math.inf
    return found if found > _ROUNDING * float(terms.abs().sum()) else 0.0


def _inner(first: Factors, second: Factors) -> float:
    """Return the inner product of two products, from their factors."""
    found = float(((first.up.T @ second.up) * (first.down @ second.down.T)).sum())
    return found if math.isfinite(found) else math.inf
