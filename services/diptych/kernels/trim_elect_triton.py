"""``trim_elect``'s loop as a Triton kernel: electing and averaging.

It reads every vector twice and writes the result once, whatever the number of vectors.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from diptych.kernels.trim_elect import Election

__all__ = ["trim_elect"]

_BLOCK: Final = 1024


def trim_elect(
    vectors: Tensor, weights: Tensor, *, votes: Tensor, thresholds: Tensor, election: Election
) -> Tensor:
    """Do what ``trim_elect.trim_elect`` says; arguments and result are its."""
    rows = vectors.contiguous()
    num_values = rows.shape[1]
    merged = torch.empty_like(rows[0])
    # A fused multiply and add rounds once where others round twice, and could turn an election.
    _elect[(triton.cdiv(num_values, _BLOCK),)](
        rows,
        weights.contiguous(),
        votes.contiguous(),
        thresholds.contiguous(),
        merged,
        len(rows),
        num_values,
        FREQUENCY=election == "frequency",
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return merged


@triton.jit  # type: ignore[untyped-decorator]
def _elect(  # noqa: PLR0913 - a kernel takes every address and size
    vectors: tl.tensor,
    weights: tl.tensor,
    votes: tl.tensor,
    thresholds: tl.tensor,
    merged: tl.tensor,
    num_vectors: int,
    num_values: int,
    FREQUENCY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Merge one block of values; the vectors' order is that of the sums."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < num_values
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for index in range(num_vectors):
        row = vectors + tl.cast(index, tl.int64) * num_values
        found = tl.load(row + places, mask=inside, other=0.0)
        found = tl.where(tl.abs(found) >= tl.load(thresholds + index), found, 0.0)
        vote = tl.load(votes + index)
        voted = found * vote
        if FREQUENCY:
            sign = tl.where(voted > 0, 1.0, tl.where(voted < 0, -1.0, 0.0))
            total += sign * tl.abs(vote)
        else:
            total += voted
    kept = tl.zeros((BLOCK,), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    for index in range(num_vectors):
        row = vectors + tl.cast(index, tl.int64) * num_values
        found = tl.load(row + places, mask=inside, other=0.0)
        found = tl.where(tl.abs(found) >= tl.load(thresholds + index), found, 0.0)
        voted = found * tl.load(votes + index)
        agrees = tl.where(total >= 0, voted > 0, voted < 0)
        kept += tl.where(agrees, found * tl.load(weights + index), 0.0)
        count += tl.where(agrees, 1.0, 0.0)
    tl.store(merged + places, kept / tl.maximum(count, 1.0), mask=inside)
