"""First and second order solvers of Karras et al. 2022 on the variance-exploding scale."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.parameterization import c_in, denoised_at
from diptych.diffusion.symbols import H1, NOISE, ZERO, Evaluation, X

__all__ = ["euler", "euler_ancestral", "heun"]


def euler(lattice: Lattice, span: range) -> list[Evaluation]:
    """Karras et al. 2022, Algorithm 1 without its correction; at sigma 0 ``denoised`` exactly.

    Serves EDM schedules as well: only the preconditioning differs.
    """
    evaluations = []
    for i in span:
        sigma, sigma_next = lattice.sigmas[i], lattice.sigmas[i + 1]
        denoised = denoised_at(lattice, i)
        evaluations.append(
            Evaluation(
                timestep=lattice.timesteps[i],
                c_in=c_in(lattice, i),
                denoised=denoised,
                x=denoised + (X - denoised) * (sigma_next / sigma),
            )
        )
    return evaluations


def euler_ancestral(lattice: Lattice, span: range) -> list[Evaluation]:
    """Step below the next sigma, then renew noise up to it.

    ``sigma_up^2`` is the variance of the forward process at the next sigma given x and x0 (Song,
    Meng and Ermon 2021, equation 16 with eta = 1, on this scale). A noise is drawn even for the
    last step, which adds none.
    """
    evaluations = []
    for i in span:
        sigma, sigma_next = lattice.sigmas[i], lattice.sigmas[i + 1]
        sigma_up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
        sigma_down = np.sqrt(sigma_next**2 - sigma_up**2)
        denoised = denoised_at(lattice, i)
        evaluations.append(
            Evaluation(
                timestep=lattice.timesteps[i],
                c_in=c_in(lattice, i),
                denoised=denoised,
                x=denoised + (X - denoised) * (sigma_down / sigma) + sigma_up * NOISE,
                draws_noise=True,
            )
        )
    return evaluations


def heun(lattice: Lattice, span: range) -> list[Evaluation]:
    """Karras et al. 2022, Algorithm 1: an Euler step, then the mean of the slopes at both ends.

    Every step but the last takes two evaluations, the second at the sigma that the first
    reached; ``span`` begins with a first one. The memory holds the first estimate of x0: written
    with it, the trapezoid is a correction of what Euler's step reached, and no digits are lost
    where sigma falls from thousands (zero SNR).
    """
    evaluations = []
    for i in span:
        sigma = lattice.sigmas[i]
        denoised = denoised_at(lattice, i)
        is_first = (i - span.start) % 2 == 0
        if is_first:
            x = denoised + (X - denoised) * (lattice.sigmas[i + 1] / sigma)
        else:
            x = X + (lattice.sigmas[i - 1] / sigma - 1.0) / 2.0 * (denoised - H1)
        evaluations.append(
            Evaluation(
                timestep=lattice.timesteps[i],
                c_in=c_in(lattice, i),
                denoised=denoised,
                x=x,
                h1=denoised if is_first else ZERO,
            )
        )
    return evaluations
