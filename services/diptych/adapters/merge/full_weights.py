"""Merging full fine-tunes: one weight of a base and of the experts made from it, at a time.

An expert's task vector (Ilharco et al. 2023) is its weights less the base's. The methods are those
for adapters, on the task vectors of one tensor: thresholds, elections and arcs are each tensor's
own, so that no more than one tensor of each model is ever in memory.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diptych.adapters.adapter import Component, Target
from diptych.adapters.merge.draws import Draw
from diptych.adapters.merge.operators import combine, slerp_weights
from diptych.adapters.merge.report import relative_error
from diptych.adapters.merge.spec import MAX_ADAPTERS, MergeSpec, Takes, check_spec
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["FULL_METHODS", "WeightReport", "check_full_spec", "merge_weight"]

FULL_METHODS: Final = (
    "linear",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "della",
    "della_linear",
    "slerp",
)
"""Methods of space ``product`` that make sense of dense weights."""
_PIECE: Final = 1 << 14
"""Values summed at a time, by one thread: sums do not depend on how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReport:
    """One tensor of a merged expert."""

    name: str
    reference_energy: float
    """Squared norm of the sum of w_i times the task vectors."""
    residual_energy: float
    """Squared norm of what is stored, less the base and that sum; rounding is part of it."""

    @property
    def error(self) -> float:
        """Return the relative error against the weighted sum of the task vectors."""
        return relative_error(self.residual_energy, self.reference_energy)


def check_full_spec(spec: MergeSpec, num_experts: int) -> MergeSpec:
    """Return ``spec`` if ``num_experts`` full models can be merged like that.

    Raises:
        InvalidRequest: They cannot; every violation is named.
    """
    found: list[tuple[str, str]] = []
    if spec.method not in FULL_METHODS:
        found.append(("method", f"{spec.method!r:.40} is not one of {', '.join(FULL_METHODS)}"))
    if spec.space != "product":
        found.append(("space", f"{spec.space} is for adapters; full weights have no factors"))
    for name, value in (("rank", spec.rank), ("energy", spec.energy)):
        if value is not None:
            found.append((name, "full weights are not cut to a rank"))
    if not found:
        count = min(max(num_experts, 1), MAX_ADAPTERS)
        if num_experts != count:
            found.append(("experts", f"{num_experts} experts, expected 1 to {MAX_ADAPTERS}"))
        elif spec.method == "slerp" and num_experts != 2:
            found.append(("experts", f"slerp goes from one to another, not between {num_experts}"))
        else:
            check_spec(spec, num_experts, max_rank=1)
    if found:
        raise InvalidRequest([FieldViolation(field=f, description=d) for f, d in found])
    return spec


def merge_weight(
    name: str, base: Tensor, tuned: Iterable[Tensor], spec: MergeSpec
) -> tuple[Tensor, WeightReport]:
    """Return the merged tensor, in the base's shape and dtype, and what it is worth.

    Sums are taken in float64, so that one expert at weight 1 and density 1 is that expert itself.

    Args:
        name: Names the random draws.
        base: [...] floating point.
        tuned: The experts' tensors, each [...] of any floating dtype; taken one after another.
        spec: As ``check_full_spec`` lets through.

    Raises:
        InvalidRequest: A result does not fit the base's dtype.
    """
    origin = base.double().reshape(-1)
    vectors = (tensor.double().reshape(-1).sub_(origin) for tensor in tuned)
    if spec.method == "slerp":
        reference, change = _on_an_arc(list(vectors), spec)
    else:
        reference, change = _combined(name, base, vectors, spec)
    merged = change.add_(origin).to(base.dtype)
    if not bool(merged.isfinite().all()):
        problem = f"{name} leaves the range of {base.dtype}; take smaller ones"
        raise InvalidRequest([FieldViolation(field="weights", description=problem)])
    residual = merged.double().sub_(origin).sub_(reference)
    report = WeightReport(
        name=name,
        reference_energy=_inner(reference, reference),
        residual_energy=_inner(residual, residual),
    )
    return merged.view(base.shape), report


def _combined(
    name: str, base: Tensor, vectors: Iterable[Tensor], spec: MergeSpec
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the task vectors, and what the method makes of them."""
    weights = spec.weights
    total = torch.zeros(base.numel(), dtype=torch.float64)
    is_sum = _stays_linear(spec, len(weights))
    buffer = torch.empty(0 if is_sum else len(weights), base.numel(), dtype=torch.float32)
    for index, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        total.add_(vector, alpha=weight)
        if not is_sum:
            buffer[index] = vector
    if is_sum:
        return total, total * spec.scale
    target = Target(component=Component.UNET, module=name)
    draws = [Draw(spec.seed, position, target) for position in range(len(weights))]
    width = base[0].numel() if base.ndim > 1 else base.numel()
    merged = combine(buffer, weights, spec, draws, width)
    return total, merged.double().mul_(spec.scale)


def _on_an_arc(vectors: Sequence[Tensor], spec: MergeSpec) -> tuple[Tensor, Tensor]:
    """Return the point between two task vectors on their chord, and the one on their arc."""
    first, second = (v.mul_(weight) for v, weight in zip(vectors, spec.weights, strict=True))
    position = 0.5 if spec.position is None else spec.position
    energies = _inner(first, first), _inner(second, second)
    shares = slerp_weights(energies, _inner(first, second), position)
    arc = (first * shares[0]).add_(second, alpha=shares[1]).mul_(spec.scale)
    return first.mul_(1 - position).add_(second, alpha=position), arc


def _stays_linear(spec: MergeSpec, num_experts: int) -> bool:
    """Return whether a method's result is a weighted sum of the task vectors."""
    if spec.takes & Takes.DENSITY and spec.kept_share < 1:
        return False
    return num_experts == 1 or not spec.takes & Takes.ELECTION


def _inner(first: Tensor, second: Tensor) -> float:
    pieces = zip(torch.split(first, _PIECE), torch.split(second, _PIECE), strict=True)
    return math.fsum(float((a * b).sum()) for a, b in pieces)
