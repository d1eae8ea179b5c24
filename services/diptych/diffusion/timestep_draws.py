"""Which timesteps a batch is trained on: drawn from a stage's range and from nothing else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["range_probabilities", "stratified_timesteps"]


def range_probabilities(
    timesteps: range, *, multiplier: float = 1.0, biased: range = range(0)
) -> NDArray[np.float64]:
    """Return how often each of ``timesteps`` is drawn, [n], summing to 1.

    Args:
        timesteps: The stage's, ascending and without gaps.
        multiplier: How many times as often as the others those in ``biased`` come; positive.
        biased: Timesteps; those that are not the stage's stay without effect.
    """
    weights = np.ones(len(timesteps), dtype=np.float64)
    first = max(biased.start - timesteps.start, 0)
    weights[first : max(biased.stop - timesteps.start, first)] = multiplier
    return np.asarray(weights / weights.sum())


def stratified_timesteps(
    timesteps: range,
    probabilities: NDArray[np.float64],
    *,
    uniforms: Sequence[float] | NDArray[np.float64],
    order: Sequence[int] | NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return one timestep for each of a batch's B samples, [B], int64.

    The range's cumulative probability is cut into B equal parts and one draw is made in each, so
    that a batch of one draws from the whole range, a larger one covers it evenly, and in the mean
    over draws every timestep has exactly its probability. ``order`` deals the parts out, else a
    sample's place in its batch would tell its noise.

    Args:
        timesteps: The stage's, ascending and without gaps, at least one.
        probabilities: Of each of them, [n], as ``range_probabilities`` returns them.
        uniforms: Independent draws from [0, 1), [B].
        order: A permutation of 0..B-1, drawn uniformly, [B].
    """
    parts = np.asarray(order, dtype=np.int64)
    positions = (parts + np.asarray(uniforms, dtype=np.float64)) / len(parts)
    cumulative = np.cumsum(probabilities)
    found = np.searchsorted(cumulative / cumulative[-1], positions, side="right")
    # (B - 1 + u) / B may round to 1, which is past the last.
    return timesteps.start + np.minimum(found, len(timesteps) - 1).astype(np.int64)
