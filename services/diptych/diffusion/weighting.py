"""How errors are weighed by timestep: tables over a whole schedule, in float64."""

import numpy as np
from numpy.typing import NDArray

from diptych.diffusion.schedule import NoiseSchedule

__all__ = ["alphas_sigmas", "huber_thresholds", "min_snr_weights", "signal_to_noise"]

Table = NDArray[np.float64]


def alphas_sigmas(schedule: NoiseSchedule) -> tuple[Table, Table]:
    """Return (alpha, sigma) at every training timestep, [T] each: x_t = alpha x0 + sigma eps.

    Variance preserving: alpha^2 + sigma^2 = 1. With zero terminal SNR the last pair is (0, 1).
    """
    alphas_cumprod = schedule.alphas_cumprod
    return np.sqrt(alphas_cumprod), np.sqrt(1.0 - alphas_cumprod)


def signal_to_noise(schedule: NoiseSchedule) -> Table:
    """Return SNR(t) = alpha^2 / sigma^2, [T], descending; exactly 0 at the end with zero SNR."""
    alphas_cumprod = schedule.alphas_cumprod
    return np.asarray(alphas_cumprod / (1.0 - alphas_cumprod))


def min_snr_weights(schedule: NoiseSchedule, gamma: float) -> Table:
    """Return the weight of each timestep's squared error on the schedule's prediction, [T].

    Hang et al. 2023, section 3.4: the error of x0 is weighed by min(SNR, gamma), whatever is
    predicted. Errors of eps are SNR times those of x0, errors of v SNR + 1 times, so their weights
    are min(SNR, gamma) / SNR and min(SNR, gamma) / (SNR + 1).

    Finite everywhere. Without signal the weight of eps is its limit, 1, which is its value at
    every SNR up to gamma (there is nothing to learn there: the input is the answer); those of v
    and x0 are 0.
    """
    snr = signal_to_noise(schedule)
    clamped = np.minimum(snr, gamma)
    if schedule.prediction_type == "v_prediction":
        return np.asarray(clamped / (snr + 1.0))
    if schedule.prediction_type == "sample":
        return clamped
    return np.asarray(gamma / np.maximum(snr, gamma))


def huber_thresholds(schedule: NoiseSchedule, c: float, kind: str) -> Table:
    """Return where the Huber loss turns from square to straight, by timestep, [T].

    Khrapov et al. 2024, "Improving diffusion models' data corruption resistance using scheduled
    pseudo-Huber loss"; the forms are those of diffusers' research project of that name and of
    kohya's trainer, with its scale of 1.

    Args:
        schedule: Of T timesteps.
        c: The threshold where noise is strongest.
        kind: ``constant``: c everywhere; ``exponential``: from 1 at t = 0 to c at T;
            ``snr``: (1 - c) / (1 + sigma / alpha)^2 + c, which is c without signal.
    """
    num = schedule.num_train_timesteps
    if kind == "constant":
        return np.full(num, c, dtype=np.float64)
    if kind == "exponential":
        return np.asarray(c ** (np.arange(num, dtype=np.float64) / num))
    alpha, sigma = alphas_sigmas(schedule)
    return np.asarray((1.0 - c) * (alpha / (alpha + sigma)) ** 2 + c)
