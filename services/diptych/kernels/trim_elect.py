"""Trim, elect and merge: the inner loop of TIES merging, and how it finds what to trim.

Yadav et al. 2023 (TIES-Merging), Algorithm 1. The magnitude under which values are trimmed is
selected by counting, digit by digit of the numbers' bits, so nothing is sorted. On a GPU the
Triton kernels of ``trim_elect_triton`` do the same; what is here is their reference, and runs
everywhere else.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "DIGITS",
    "Election",
    "count_threshold",
    "elect_reference",
    "magnitude_threshold",
    "pick_bin",
    "trim_elect",
]

Election = Literal["total", "frequency"]

DIGITS: Final = ((20, 11), (10, 10), (0, 10))
"""Shift and width of the digits of a magnitude's 31 bits, the highest first."""
_CHUNK: Final = (1 << 15) - 1
"""Values, of all vectors, that are merged together: what they need stays in a core's cache.

Torch splits what is larger among threads, which then wait for each other at every step: on a
machine with other work, ten times as long as the step takes.
"""


def magnitude_threshold(values: Tensor, keep: int) -> float:
    """Return the ``keep``-th largest magnitude among ``values``, infinity for none.

    Args:
        values: [...] float32, finite.
        keep: From 0 to the number of values.
    """
    if keep == 0:
        return float("inf")
    if values.device.type == "cpu":
        magnitudes = values.detach().reshape(-1).abs().numpy()
        # Introselect and counting find the same number; a CPU is quicker at the first.
        return float(np.partition(magnitudes, magnitudes.size - keep)[magnitudes.size - keep])
    if _runs_triton(values):
        # An optional backend: platforms without it have no such GPU.
        from diptych.kernels import trim_elect_triton  # noqa: PLC0415

        return trim_elect_triton.count_threshold(values, keep)
    return count_threshold(values, keep)


def count_threshold(values: Tensor, keep: int) -> float:
    """Return the ``keep``-th largest magnitude by three counts of 2048, 1024 and 1024 bins.

    The bits of a non-negative float32 order as its value does, so the bin that the ``keep``-th
    falls into gives its highest digit, and a count inside that bin the next.

    Args:
        values: [...] float32, finite.
        keep: From 1 to the number of values.
    """
    bits = values.detach().reshape(-1).abs().view(torch.int32)
    found, left = 0, keep
    for shift, width in DIGITS:
        digits = (bits >> shift) & ((1 << width) - 1)
        counts = torch.bincount(digits, minlength=1 << width)
        digit, left = pick_bin(counts, left)
        bits = bits[digits == digit]
        found |= digit << shift
    return float(np.int32(found).view(np.float32))


def pick_bin(counts: Tensor, keep: int) -> tuple[int, int]:
    """Return the bin of the ``keep``-th largest, and its place from the top inside that bin.

    Args:
        counts: [bins] whole numbers, by rising digit.
        keep: From 1 to their sum.
    """
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, keep))
    above = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, keep - above


def trim_elect(
    vectors: Tensor, weights: Tensor, *, votes: Tensor, thresholds: Tensor, election: Election
) -> Tensor:
    """Merge ``vectors`` value by value: trim, elect a sign, and average those that have it.

    Where a vector's magnitude is below its threshold it takes no part. The elected sign is that
    of the sum of ``votes[i] * vectors[i]`` (``total``), or of the sum of ``votes[i]`` times the
    signs (``frequency``); zero elects plus. The result is the sum of ``weights[i] * vectors[i]``
    over those whose ``votes[i] * vectors[i]`` has the elected sign, over their number.

    Args:
        vectors: [n, m] float32.
        weights: [n] float32.
        votes: [n] float32; ones give every vector the same vote.
        thresholds: [n] float32; 0 trims nothing.
        election: What is summed.

    Returns:
        [m] float32.
    """
    if _runs_triton(vectors):
        # An optional backend: platforms without it have no such GPU.
        from diptych.kernels import trim_elect_triton  # noqa: PLC0415

        return trim_elect_triton.trim_elect(
            vectors, weights, votes=votes, thresholds=thresholds, election=election
        )
    return elect_reference(vectors, weights, votes=votes, thresholds=thresholds, election=election)


def elect_reference(
    vectors: Tensor, weights: Tensor, *, votes: Tensor, thresholds: Tensor, election: Election
) -> Tensor:
    """Do what ``trim_elect`` says in torch, piece by piece.

    What elects is rounded product by product and added in the order of the vectors, so that
    every device elects the same signs.
    """
    merged = torch.empty_like(vectors[0])
    weighs = bool((votes != 1).any())
    floors = [np.nextafter(np.float32(threshold), np.float32(0)) for threshold in thresholds.cpu()]
    length = max(1, _CHUNK // len(vectors))
    for begin in range(0, len(merged), length):
        piece = vectors[:, begin : begin + length]
        trimmed = _above(piece, floors) if any(floors) else piece
        voted = trimmed * votes[:, None] if weighs else trimmed
        ballots = voted.sign() * votes[:, None].abs() if election == "frequency" else voted
        total = _in_order(ballots)
        # A total of -0 comes of zeros alone, which agree with neither sign.
        majority = torch.ones_like(total).copysign_(total)
        agrees = voted.sign().mul_(majority).clamp_(min=0.0)
        count = (torch.ones_like(weights) @ agrees).clamp_(min=1.0)
        merged[begin : begin + length] = (weights @ agrees.mul_(trimmed)).div_(count)
    return merged


def _above(rows: Tensor, floors: Sequence[np.float32]) -> Tensor:
    """Return ``rows`` [n, m] with zeros where a magnitude is not above its row's floor."""
    pairs = zip(rows, floors, strict=True)
    return torch.stack([functional.hardshrink(row, float(floor)) for row, floor in pairs])


def _in_order(rows: Tensor) -> Tensor:
    """Return the sum of ``rows`` [n, m], added one after another from the first."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def _runs_triton(values: Tensor) -> bool:
    return values.device.type == "cuda" and find_spec("triton") is not None
