"""Few-step solvers for distilled students: latent consistency and trajectory consistency."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.parameterization import denoised_row, eps_row
from diptych.diffusion.symbols import NOISE, Evaluation, Row, X

__all__ = ["lcm", "tcd"]

LCM_SIGMA_DATA = 0.5


def lcm(lattice: Lattice, span: range) -> list[Evaluation]:
    """Luo et al. 2023, multistep sampling: jump to x0, then renew noise at the next timestep.

    The last evaluation of the whole schedule draws none.
    """
    schedule = lattice.schedule
    evaluations = []
    for i in span:
        t = int(lattice.timesteps[i])
        denoised = denoised_row(schedule.prediction_type, *_alpha_sigma(lattice, t))
        scaled = t * schedule.timestep_scaling
        variance = scaled**2 + LCM_SIGMA_DATA**2
        consistent = scaled / np.sqrt(variance) * denoised + LCM_SIGMA_DATA**2 / variance * X
        is_last = i == len(lattice.timesteps) - 1
        x = consistent if is_last else _renoised(lattice, i, consistent)
        evaluations.append(
            Evaluation(timestep=float(t), denoised=denoised, x=x, draws_noise=not is_last)
        )
    return evaluations


def tcd(lattice: Lattice, span: range) -> list[Evaluation]:
    """Zheng et al. 2024, strategic stochastic sampling: jump to s, then up to the next t.

    s = floor((1 - eta) * t_next), in float32 as diffusers computes it; the paper's gamma is
    ``eta`` here. With eta above 0 a noise is drawn at every evaluation but the last of the whole
    schedule.
    """
    schedule, eta = lattice.schedule, lattice.eta
    evaluations = []
    for i in span:
        t = int(lattice.timesteps[i])
        is_last = i == len(lattice.timesteps) - 1
        t_next = 0 if is_last else int(lattice.timesteps[i + 1])
        s = int(np.floor(np.float32(1.0 - eta) * np.float32(t_next)))
        denoised = denoised_row(schedule.prediction_type, *_alpha_sigma(lattice, t))
        eps = eps_row(denoised, *_alpha_sigma(lattice, t))
        alpha_s, sigma_s = _alpha_sigma(lattice, s)
        x = alpha_s * denoised + sigma_s * eps
        draws_noise = eta > 0.0 and not is_last
        if draws_noise:
            ratio = schedule.alphas_cumprod[t_next] / schedule.alphas_cumprod[s]
            x = np.sqrt(ratio) * x + np.sqrt(1.0 - ratio) * NOISE
        evaluations.append(
            Evaluation(timestep=float(t), denoised=denoised, x=x, draws_noise=draws_noise)
        )
    return evaluations


def _renoised(lattice: Lattice, i: int, denoised: Row) -> Row:
    alpha, sigma = _alpha_sigma(lattice, int(lattice.timesteps[i + 1]))
    return alpha * denoised + sigma * NOISE


def _alpha_sigma(lattice: Lattice, timestep: int) -> tuple[float, float]:
    a = lattice.schedule.alphas_cumprod[timestep]
    return float(np.sqrt(a)), float(np.sqrt(1.0 - a))
