"""What an adapter adds to a weight, as factors and as a dense matrix in float64.

Sums of products are taken in float64 and rounded once, so that the values that merging compares
with each other and with thresholds are the same numbers on every device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.adapters.adapter import LowRank

__all__ = ["Factors", "dense_update", "factors_of", "with_signs_settled"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """A matrix [out, in] as ``up @ down``, float64; a convolution's kernel counts as inputs."""

    up: Tensor
    """[out, r]."""
    down: Tensor
    """[r, in]."""


def factors_of(low_rank: LowRank, device: torch.device | None = None) -> Factors:
    """Return alpha / r * up @ down without DoRA's magnitude, the scale in ``up``."""
    up = low_rank.up.to(device, torch.float64) * low_rank.scale
    down = low_rank.down.to(device, torch.float64).flatten(1)
    return with_signs_settled(Factors(up=up, down=down))


def with_signs_settled(factors: Factors) -> Factors:
    """Return the same product with each pair's signs chosen so that its largest down is positive.

    (A, B) and (-A, -B) are one update, and from here on one pair of factors to the bit.
    """
    largest = factors.down.abs().argmax(dim=1, keepdim=True)
    signs = torch.where(factors.down.gather(1, largest) < 0, -1.0, 1.0).to(factors.down)
    return Factors(up=factors.up * signs.T, down=factors.down * signs)


def dense_update(low_rank: LowRank, factors: Factors, weight: Tensor | None = None) -> Tensor:
    """Return what ``low_rank`` adds to a weight: [out, in] float64.

    A DoRA (Liu et al. 2024, eq. 5) replaces W by g * (W + dW), so it adds that less W. The norms
    are taken over inputs, or over outputs where the magnitude is one per input.

    Args:
        low_rank: The update, of which only the magnitude is read.
        factors: The rest of it.
        weight: W [out, in, ...]; needed with a magnitude.
    """
    product = factors.up @ factors.down
    if low_rank.magnitude is None:
        return product
    assert weight is not None
    base = weight.to(product.device, torch.float64)
    kernel = base.shape[2:].numel()
    changed = (base.flatten(1) + product).view(base.shape[0], base.shape[1], kernel)
    side = (0, 2) if low_rank.magnitude.per_input else (1, 2)
    norms = torch.linalg.vector_norm(changed, dim=side, keepdim=True)
    wanted = low_rank.magnitude.norms.to(norms).view(norms.shape)
    gain = torch.where(norms > 0, wanted / norms, 1.0)
    return (changed * gain).flatten(1) - base.flatten(1)
