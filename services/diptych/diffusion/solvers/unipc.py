"""UniPC: a predictor of second order whose every point the next evaluation corrects."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.parameterization import alpha_sigma, c_in, denoised_at
from diptych.diffusion.symbols import H1, H2, X_LAST, ZERO, Evaluation, Row, X

__all__ = ["unipc"]

ORDER = 2


def unipc(lattice: Lattice, span: range) -> list[Evaluation]:
    """Zhao et al. 2023, section 3: UniPC on x0, B(h) = exp(h) - 1 ("bh2"), order 2.

    The memory holds the last corrected latents and the last two denoised estimates. The first
    evaluation of ``span`` corrects nothing and predicts to first order; the last of the schedule
    predicts to first order.
    """
    evaluations: list[Evaluation] = []
    last_order = 0
    for i in span:
        denoised = denoised_at(lattice, i)
        x = X if last_order == 0 else _corrected(lattice, i, denoised, order=last_order)
        last_order = _order(lattice, i, last_order)
        evaluations.append(
            Evaluation(
                timestep=lattice.timesteps[i],
                c_in=c_in(lattice, i),
                denoised=denoised,
                x=_predicted(lattice, i, x, denoised, order=last_order),
                x_last=x,
                h1=denoised,
                h2=H1 if i > span.start else ZERO,
            )
        )
    return evaluations


def _order(lattice: Lattice, i: int, last_order: int) -> int:
    """Return the predictor's order at evaluation ``i``: it warms up, and ends low."""
    left = len(lattice.timesteps) - i if lattice.schedule.lower_order_final else ORDER
    return min(ORDER, left, last_order + 1)


def _log_snr_gap(lattice: Lattice, start: int, end: int) -> float:
    """Return lambda_end - lambda_start, where lambda = log(alpha / sigma)."""
    return float(np.log(lattice.sigmas[start] / lattice.sigmas[end]))


def _first_order(lattice: Lattice, start: int, x: Row, m0: Row) -> Row:
    """Return the exact step from ``start`` to the next sigma if x0 stayed ``m0``."""
    _, sigma_s = alpha_sigma(lattice, start)
    alpha, sigma = alpha_sigma(lattice, start + 1)
    return sigma / sigma_s * x + alpha * _b(lattice, start) * m0


def _b(lattice: Lattice, start: int) -> float:
    """Return -B(-h) = 1 - exp(-h) for the step that begins at ``start``."""
    return float(1.0 - lattice.sigmas[start + 1] / lattice.sigmas[start])


def _predicted(lattice: Lattice, i: int, x: Row, m0: Row, *, order: int) -> Row:
    """Return UniP's step, with the coefficient 1/2 that the paper allows at order 2."""
    step = _first_order(lattice, i, x, m0)
    if order == 1:
        return step
    r = _log_snr_gap(lattice, i, i - 1) / _log_snr_gap(lattice, i, i + 1)
    alpha, _ = alpha_sigma(lattice, i + 1)
    return step + alpha * _b(lattice, i) * 0.5 * (H1 - m0) / r


def _corrected(lattice: Lattice, i: int, m_t: Row, *, order: int) -> Row:
    """Return UniC's correction: the last step again, now knowing the estimate at its end."""
    start, m0 = i - 1, H1
    step = _first_order(lattice, start, X_LAST, m0)
    alpha, _ = alpha_sigma(lattice, i)
    if order == 1:
        return step + alpha * _b(lattice, start) * 0.5 * (m_t - m0)
    h = _log_snr_gap(lattice, start, i)
    r = _log_snr_gap(lattice, start, start - 1) / h
    rho_1, rho_t = _corrector_weights(h, r)
    change = rho_1 * (H2 - m0) / r + rho_t * (m_t - m0)
    return step + alpha * _b(lattice, start) * change


def _corrector_weights(h: float, r: float) -> tuple[float, float]:
    """Solve the paper's linear system ``R(h) rho = b(h)`` for two points."""
    hh = -h
    b_h = np.expm1(hh)
    phi_1 = b_h / hh - 1.0
    phi_2 = phi_1 / hh - 0.5
    b_1, b_2 = phi_1 / b_h, 2.0 * phi_2 / b_h
    rho_1 = (b_1 - b_2) / (1.0 - r)
    return float(rho_1), float(b_1 - rho_1)
