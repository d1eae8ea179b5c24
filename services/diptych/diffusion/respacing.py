"""Sigma schedules laid between two noise levels, and the timesteps that go with them."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["beta_quantiles", "respaced_sigmas", "timesteps_of_sigmas"]

Array = NDArray[np.float64]

KARRAS_RHO: Final = 7.0
BETA_SHAPE: Final = 0.6


def respaced_sigmas(name: str, sigma_min: float, sigma_max: float, num_steps: int) -> Array:
    """Return ``num_steps`` sigmas from ``sigma_max`` down to ``sigma_min``.

    Args:
        name: ``karras`` (Karras et al. 2022, equation 5, rho = 7), ``exponential`` (even in
            log sigma) or ``beta`` (Lee et al. 2024, quantiles of Beta(0.6, 0.6)).
        sigma_min: Lowest noise level, > 0.
        sigma_max: Highest noise level.
        num_steps: At least 1; with 1 only ``sigma_max`` is returned.
    """
    if name == "karras":
        low, high = sigma_min ** (1 / KARRAS_RHO), sigma_max ** (1 / KARRAS_RHO)
        return np.asarray((high + np.linspace(0, 1, num_steps) * (low - high)) ** KARRAS_RHO)
    if name == "exponential":
        return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), num_steps))
    quantiles = beta_quantiles(1.0 - np.linspace(0, 1, num_steps))
    return np.asarray(sigma_min + quantiles * (sigma_max - sigma_min))


def timesteps_of_sigmas(sigmas: Array, table: NDArray[np.float32]) -> Array:
    """Return fractional timesteps of ``sigmas``, linear in log sigma between table entries.

    The mixed precision (table in float32, sigmas in float64) is diffusers' and decides which way
    a timestep falls that is later cut to an integer.

    Args:
        sigmas: Noise levels, [N].
        table: Sigma at every training timestep, [T], ascending.
    """
    log_sigmas, log_table = np.log(np.maximum(sigmas, 1e-10)), np.log(table)
    low = np.searchsorted(log_table, log_sigmas, side="right") - 1
    low = np.clip(low, 0, len(table) - 2)
    weight = (log_table[low] - log_sigmas) / (log_table[low] - log_table[low + 1])
    weight = np.clip(weight, 0.0, 1.0)
    return np.asarray((1.0 - weight) * low + weight * (low + 1))


def beta_quantiles(probabilities: Array, shape: float = BETA_SHAPE) -> Array:
    """Return quantiles of the symmetric Beta(shape, shape) distribution, exact to 1e-12.

    The distribution function is the series of DLMF 8.17.7 about 0, used up to one half and
    mirrored beyond. In ``u = x ** shape`` it is almost a line, so Newton's method converges in a
    few steps.

    Args:
        probabilities: [N], in [0, 1].
        shape: Both parameters of the distribution, > 0.
    """
    tail = np.minimum(probabilities, 1.0 - probabilities)
    total = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    order = np.arange(60)
    ratios = np.append(1.0, (order[1:] - shape) / order[1:])
    coefficients = np.cumprod(ratios) * shape / (order + shape)
    u = tail * shape * total
    for _ in range(8):
        x = u ** (1 / shape)
        value = u * (x[:, None] ** order @ coefficients)
        u = u - (value - tail * shape * total) * (1.0 - x) ** (1.0 - shape)
    x = u ** (1 / shape)
    return np.where(probabilities > 0.5, 1.0 - x, x)
