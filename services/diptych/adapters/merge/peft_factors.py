"""Merging A with A and B with B, as PEFT's ``add_weighted_adapter`` does (PEFT 0.21).

For those who need the file that PEFT would have made. Without ``_svd`` the result depends on the
signs of the factors and holds products of one adapter's A with another's B; it is not a merge of
the updates. Random dropping draws from one torch generator, target after target in the order of
the adapters' targets, A's before B's: the numbers PEFT draws when torch's own generator has the
seed at its first draw and the targets come in the order of its model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from diptych.adapters.adapter import MAX_RANK, LowRank, Target
from diptych.adapters.merge.product import Part, report_of
from diptych.adapters.merge.report import LayerReport
from diptych.adapters.merge.spec import MergeSpec, Takes
from diptych.adapters.merge.task_vectors import Factors, factors_of
from diptych.errors import FieldViolation, InvalidRequest
from diptych.kernels.trim_elect import elect_reference

__all__ = ["FactorMerge"]

_TRIMMING: Final = frozenset({"ties", "magnitude_prune"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FactorMerge:
    """One merge; its generator advances from target to target."""

    spec: MergeSpec
    ranks: Sequence[int]
    """The largest rank of each adapter that has targets."""
    generator: torch.Generator

    def merge_target(self, target: Target, parts: Sequence[Part]) -> tuple[LowRank, LayerReport]:
        """Merge the factors of one target.

        Raises:
            InvalidRequest: The ranks do not allow it.
        """
        method = "linear" if len(self.ranks) == 1 else self.spec.method
        if method == "cat":
            low_rank = self._concatenate(parts)
        elif method == "svd" or method.endswith("_svd"):
            low_rank = self._cut_product(parts)
        else:
            low_rank = self._merge_sides(target, parts, method)
        scaled = [(factors_of(part.low_rank), part.weight) for part in parts]
        reference = Factors(
            up=torch.cat([factors.up * weight for factors, weight in scaled], dim=1),
            down=torch.cat([factors.down for factors, _ in scaled]),
        )
        return low_rank, report_of(target, low_rank, reference, 0.0)

    def _merge_sides(self, target: Target, parts: Sequence[Part], method: str) -> LowRank:
        ranks = {part.low_rank.rank for part in parts} | set(self.ranks)
        if len(ranks) > 1:
            found = ", ".join(map(str, sorted(ranks)))
            problem = f"{method} in space factors needs equal ranks, {target.module} meets {found}"
            raise InvalidRequest([FieldViolation(field="method", description=problem)])
        scales = [part.weight * part.low_rank.scale for part in parts]
        roots = [math.sqrt(abs(scale)) for scale in scales]
        signed = [math.copysign(root, scale) for root, scale in zip(roots, scales, strict=True)]
        # A negative weight turns one side only, or the product would not change its sign.
        down = self._combine([_wide(part.low_rank.down) for part in parts], signed)
        up = self._combine([_wide(part.low_rank.up) for part in parts], roots)
        return LowRank(down=down, up=up, alpha=float(len(down)))

    def _cut_product(self, parts: Sequence[Part]) -> LowRank:
        updates = [_product(part.low_rank) for part in parts]
        merged = self._combine(updates, [part.weight for part in parts])
        u, values, vh = torch.linalg.svd(merged, full_matrices=False)
        rank = min(self.spec.rank or max(self.ranks), len(values))
        down = vh[:rank].reshape(rank, *parts[0].low_rank.down.shape[1:])
        up = u[:, :rank] * values[:rank]
        return LowRank(down=down.contiguous(), up=up, alpha=float(rank))

    def _concatenate(self, parts: Sequence[Part]) -> LowRank:
        """Stack the factors; where adapters miss the target, zeros fill up to the common rank."""
        rank = sum(self.ranks)
        if rank > MAX_RANK:
            problem = f"cat makes rank {rank}, over the limit of {MAX_RANK}; use svd with a rank"
            raise InvalidRequest([FieldViolation(field="method", description=problem)])
        like = parts[0].low_rank
        down = _wide(like.down).new_zeros(rank, *like.down.shape[1:])
        up = _wide(like.up).new_zeros(len(like.up), rank)
        begin = 0
        for part in parts:
            end = begin + part.low_rank.rank
            down[begin:end] = _wide(part.low_rank.down) * part.weight * part.low_rank.scale
            up[:, begin:end] = _wide(part.low_rank.up)
            begin = end
        return LowRank(down=down, up=up, alpha=float(rank))

    def _combine(self, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Apply the operator to one side, or to the products."""
        operator = "linear" if len(self.ranks) == 1 else self.spec.operator
        stack = torch.stack([self._thinned(tensor, operator) for tensor in tensors])
        factors = torch.tensor(weights, dtype=torch.float32).to(stack)
        if not self.spec.takes & Takes.ELECTION or operator == "linear":
            return (stack * factors.view(-1, *[1] * (stack.ndim - 1))).sum(dim=0)
        merged = elect_reference(
            stack.flatten(1),
            factors,
            votes=torch.ones_like(factors),
            thresholds=torch.zeros_like(factors),
            election=self.spec.election or "total",
        )
        return merged.view(stack.shape[1:])

    def _thinned(self, tensor: Tensor, operator: str) -> Tensor:
        """Trim or drop as PEFT does: exactly so many values, by one draw per value."""
        if operator in {"linear", "svd"} or self.spec.kept_share == 1:
            return tensor
        density = self.spec.kept_share
        if operator in _TRIMMING:
            keep = int(density * tensor.numel())
            largest = torch.topk(tensor.abs().reshape(-1), keep).indices
            mask = torch.zeros_like(tensor).reshape(-1).index_fill_(0, largest, 1.0)
            return tensor * mask.view_as(tensor)
        kept = torch.bernoulli(torch.full_like(tensor, density), generator=self.generator)
        return tensor * kept / density


def _product(low_rank: LowRank) -> Tensor:
    """Return dW [out, in], rounded as PEFT rounds it: a kernel's sums are a convolution's."""
    up, down = _wide(low_rank.up), _wide(low_rank.down)
    if down.shape[2:].numel() == 1:
        return (up @ down.flatten(1)) * low_rank.scale
    product = functional.conv2d(down.transpose(0, 1), up[:, :, None, None]).transpose(0, 1)
    return product.flatten(1) * low_rank.scale


def _wide(tensor: Tensor) -> Tensor:
    """Return a factor in float32 or more, which PEFT keeps half-precision adapters in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
