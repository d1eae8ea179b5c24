"""Trim, elect and merge: the inner loop of TIES merging, and how it finds what to trim.

Yadav et al. 2023 (TIES-Merging), Algorithm 1. On a GPU the Triton kernel of ``trim_elect_triton``
elects and averages; what is here is its reference, and runs everywhere else.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Election",
    "elect_reference",
    "magnitude_threshold",
    "trim_elect",
]

Election = Literal["total", "frequency"]

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
    magnitudes = values.detach().reshape(-1).abs()
    if magnitudes.device.type == "cpu":
        found = np.partition(magnitudes.numpy(), magnitudes.numel() - keep)
        return float(found[magnitudes.numel() - keep])
    # Radix sort; selecting, or counting digit by digit, takes a GPU longer.
    return float(magnitudes.sort(descending=True).values[keep - 1])


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
