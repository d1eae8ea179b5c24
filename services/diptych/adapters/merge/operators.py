"""What merging methods do to several updates of one weight, value by value.

All take a buffer [n, out * in] float32 that they may overwrite, and give [out * in]. None rounds
differently from one device to another, see ``task_vectors`` and ``draws``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diptych.adapters.merge.draws import Draw, chance_of, keep_by_chance, keep_by_chances
from diptych.adapters.merge.spec import MergeSpec
from diptych.kernels.trim_elect import magnitude_threshold, trim_elect

__all__ = ["combine", "drop_at_random", "drop_by_magnitude", "slerp_weights", "thresholds_of"]


def combine(
    buffer: Tensor, weights: Sequence[float], spec: MergeSpec, draws: Sequence[Draw], width: int
) -> Tensor:
    """Return what the method of ``spec`` makes of the updates in ``buffer``.

    Args:
        buffer: [n, m] float32; overwritten.
        weights: n of them.
        spec: Its operator is one that is not linear.
        draws: n of them, for methods that drop at random.
        width: Length of a row of the weight; DELLA ranks values within rows.
    """
    thresholds = _PREPARE[spec.operator](buffer, spec, draws, width)
    # What DARE keeps is divided by its chance here: elections see values no device rounds anew.
    chance = chance_of(spec.kept_share) if spec.operator in _DROPPING else 1.0
    shares = [weight / chance for weight in weights]
    if spec.operator in _ELECTING:
        factors = torch.tensor(shares, dtype=buffer.dtype, device=buffer.device)
        votes = torch.ones_like(factors)
        if spec.vote_is_weighted:
            votes = torch.tensor(weights, dtype=buffer.dtype, device=buffer.device)
        return trim_elect(
            buffer,
            factors,
            votes=votes,
            thresholds=thresholds,
            election=spec.election or "total",
        )
    total = torch.zeros_like(buffer[0])
    for values, share, threshold in zip(buffer, shares, thresholds.tolist(), strict=True):
        if threshold > 0:
            values.mul_(values.abs() >= threshold)
        total.add_(values, alpha=share)
    return total


def thresholds_of(buffer: Tensor, density: float) -> Tensor:
    """Return the magnitude from which on each row's values belong to its largest: [n] float32.

    As many are kept as PEFT keeps, the density's share rounded down, and all that equal the
    smallest of them.

    Args:
        buffer: [n, m] float32.
        density: In (0, 1].
    """
    keep = math.floor(density * buffer.shape[1])
    found = [magnitude_threshold(values, keep) for values in buffer]
    return torch.tensor(found, dtype=buffer.dtype, device=buffer.device)


def drop_at_random(values: Tensor, density: float, draw: Draw) -> None:
    """Keep each value with chance ``chance_of(density)``, in place.

    DARE, Yu et al. 2024, eq. 1 and 2; the mean stays once what is kept is divided by the chance.
    """
    kept = keep_by_chance(draw, values.shape, chance_of(density), values.device)
    if values.device.type == "cpu":
        # Multiplies by bytes as they are; torch would first make floats of them.
        array = values.numpy()
        np.multiply(array, kept.numpy(), out=array)
    else:
        values.mul_(kept)


def drop_by_magnitude(
    values: Tensor, density: float, spread: float, draw: Draw, *, width: int
) -> None:
    """Keep large values more often than small ones and divide by the chance, in place.

    DELLA's MAGPRUNE, Deep et al. 2024, section 3.1: chances rise evenly with the rank of the
    magnitude within a row, from density - spread / 2 to density + spread / 2.

    Args:
        values: [m] float32.
        density: Mean chance.
        spread: Distance of the extreme chances.
        draw: Names the random numbers.
        width: Length of a row.
    """
    rows = values.view(-1, width)
    order = rows.abs().argsort(dim=1, stable=True)
    places = torch.arange(width, device=values.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places).double()
    share = ranks / (width - 1) if width > 1 else torch.full_like(ranks, 0.5)
    chances = (density - spread / 2 + spread * share).view(-1)
    values.mul_(keep_by_chances(draw, chances)).div_(chances.to(values.dtype))


def slerp_weights(
    energies: tuple[float, float], inner: float, position: float
) -> tuple[float, float]:
    """Return what two updates are multiplied by to lie between them on an arc.

    The direction moves evenly along the great circle (Shoemake 1985) and the norm evenly from
    one to the other. Where the arc is not determined - parallel, opposite or empty updates -
    both are weighted as in linear interpolation.

    Args:
        energies: Squared norms of the updates.
        inner: Their inner product.
        position: 0 is the first, 1 the second.
    """
    first, second = math.sqrt(energies[0]), math.sqrt(energies[1])
    straight = (1 - position, position)
    if not first * second > 0:
        return straight
    angle = math.acos(max(-1.0, min(1.0, inner / (first * second))))
    sine = math.sin(angle)
    if sine < _PARALLEL:
        return straight
    norm = straight[0] * first + straight[1] * second
    return (
        norm * math.sin((1 - position) * angle) / (sine * first),
        norm * math.sin(position * angle) / (sine * second),
    )


_PARALLEL: Final = 1e-6
_ELECTING: Final = frozenset({"ties", "dare_ties", "della"})
_DROPPING: Final = frozenset({"dare_linear", "dare_ties"})


def _trim(buffer: Tensor, spec: MergeSpec, draws: Sequence[Draw], width: int) -> Tensor:
    del draws, width
    return thresholds_of(buffer, spec.kept_share)


def _dare(buffer: Tensor, spec: MergeSpec, draws: Sequence[Draw], width: int) -> Tensor:
    del width
    for values, draw in zip(buffer, draws, strict=True):
        drop_at_random(values, spec.kept_share, draw)
    return buffer.new_zeros(len(buffer))


def _della(buffer: Tensor, spec: MergeSpec, draws: Sequence[Draw], width: int) -> Tensor:
    for values, draw in zip(buffer, draws, strict=True):
        drop_by_magnitude(values, spec.kept_share, spec.spread, draw, width=width)
    return buffer.new_zeros(len(buffer))


_Prepare = Callable[[Tensor, MergeSpec, Sequence[Draw], int], Tensor]
_PREPARE: Final[Mapping[str, _Prepare]] = MappingProxyType(
    {
        "ties": _trim,
        "magnitude_prune": _trim,
        "dare_linear": _dare,
        "dare_ties": _dare,
        "della": _della,
        "della_linear": _della,
    }
)
"""Operator -> what it does before signs are elected or values summed; returns thresholds."""
