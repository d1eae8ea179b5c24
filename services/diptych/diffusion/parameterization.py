"""From what a model predicts to the estimate of x0, as rows; and the scales latents live on."""

import numpy as np

from diptych.diffusion.lattice import Lattice
from diptych.diffusion.symbols import MODEL, Row, X

__all__ = ["alpha_sigma", "c_in", "denoised_at", "denoised_row", "edm_denoised_row", "eps_row"]


def denoised_row(prediction_type: str, alpha: float, sigma: float) -> Row:
    """Return the estimate of x0 where ``x = alpha * x0 + sigma * eps``.

    Holds for any scale: variance preserving (alpha^2 + sigma^2 = 1) and exploding (alpha = 1).
    ``v_prediction`` is that of Salimans and Ho 2022, for latents scaled to unit variance.
    """
    if prediction_type == "epsilon":
        return np.asarray((X - sigma * MODEL) / np.float64(alpha))
    if prediction_type == "v_prediction":
        variance = alpha**2 + sigma**2
        return np.asarray(alpha / variance * X - sigma / np.sqrt(variance) * MODEL)
    return MODEL


def eps_row(denoised: Row, alpha: float, sigma: float) -> Row:
    """Return the noise that is left in x once ``denoised`` is taken out."""
    return np.asarray((X - alpha * denoised) / np.float64(sigma))


def edm_denoised_row(prediction_type: str, sigma: float, sigma_data: float) -> Row:
    """Return ``c_skip * x + c_out * model``: Karras et al. 2022, equation 7 and Table 1."""
    variance = sigma**2 + sigma_data**2
    c_out = sigma * sigma_data / np.sqrt(variance)
    sign = -1.0 if prediction_type == "v_prediction" else 1.0
    return np.asarray(sigma_data**2 / variance * X + sign * c_out * MODEL)


def alpha_sigma(lattice: Lattice, index: int) -> tuple[float, float]:
    """Return (alpha, sigma) of the latents before evaluation ``index``, on their own scale."""
    sigma = lattice.sigmas[index]
    if lattice.scale != "preserving":
        return 1.0, sigma
    alpha = 1.0 / np.sqrt(sigma**2 + 1.0)
    return alpha, sigma * alpha


def c_in(lattice: Lattice, index: int) -> float:
    """Return the factor that brings latents to the unit variance a model expects."""
    sigma, edm = lattice.sigmas[index], lattice.schedule.edm
    if lattice.scale == "preserving":
        return 1.0
    data = 1.0 if edm is None else edm.sigma_data
    return float(1.0 / np.sqrt(sigma**2 + data**2))


def denoised_at(lattice: Lattice, index: int) -> Row:
    """Return the estimate of x0 at evaluation ``index``."""
    prediction_type, edm = lattice.schedule.prediction_type, lattice.schedule.edm
    if edm is not None:
        return edm_denoised_row(prediction_type, lattice.sigmas[index], edm.sigma_data)
    return denoised_row(prediction_type, *alpha_sigma(lattice, index))
