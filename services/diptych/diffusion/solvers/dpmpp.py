"""DPM-Solver++ of second order, as an ODE and as an SDE, midpoint form."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.parameterization import alpha_sigma, c_in, denoised_at
from diptych.diffusion.symbols import H1, NOISE, Evaluation, Row, X

__all__ = ["dpmpp_2m", "dpmpp_2m_sde"]

SHORT_SCHEDULE = 15
"""Below this many steps a schedule that ends above zero also ends with a first order step."""


def dpmpp_2m(lattice: Lattice, span: range) -> list[Evaluation]:
    """Lu et al. 2022b, Algorithm 2 (2M); first order where ``span`` begins and where sigma ends."""
    return [_evaluation(lattice, i, is_first=i == span.start, is_sde=False) for i in span]


def dpmpp_2m_sde(lattice: Lattice, span: range) -> list[Evaluation]:
    """Lu et al. 2022b, SDE-DPM-Solver++(2M): a noise is drawn at every evaluation."""
    return [_evaluation(lattice, i, is_first=i == span.start, is_sde=True) for i in span]


def _evaluation(lattice: Lattice, i: int, *, is_first: bool, is_sde: bool) -> Evaluation:
    denoised = denoised_at(lattice, i)
    slope = denoised
    if not (is_first or _ends_first_order(lattice, i)):
        slope = denoised + _second_order(lattice, i, denoised)
    alpha, sigma = alpha_sigma(lattice, i + 1)
    _, sigma_s = alpha_sigma(lattice, i)
    decay = lattice.sigmas[i + 1] / lattice.sigmas[i]
    if is_sde:
        x = sigma / sigma_s * decay * X + alpha * (1.0 - decay**2) * slope
        x = x + sigma * np.sqrt(1.0 - decay**2) * NOISE
    else:
        x = sigma / sigma_s * X + alpha * (1.0 - decay) * slope
    return Evaluation(
        timestep=lattice.timesteps[i],
        c_in=c_in(lattice, i),
        denoised=denoised,
        x=x,
        h1=denoised,
        draws_noise=is_sde,
    )


def _second_order(lattice: Lattice, i: int, denoised: Row) -> Row:
    """Return ``D1 / 2``: half the change of the denoised per step of log signal to noise."""
    h = np.log(lattice.sigmas[i] / lattice.sigmas[i + 1])
    h_last = np.log(lattice.sigmas[i - 1] / lattice.sigmas[i])
    return np.asarray(0.5 * (h / h_last) * (denoised - H1))


def _ends_first_order(lattice: Lattice, i: int) -> bool:
    schedule, num = lattice.schedule, len(lattice.timesteps)
    ends_low = schedule.final_sigmas_type == "zero" or schedule.euler_at_final
    return i == num - 1 and (ends_low or (schedule.lower_order_final and num < SHORT_SCHEDULE))
