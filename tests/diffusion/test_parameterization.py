"""Every kind of prediction leads to the same x0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion.parameterization import denoised_row, edm_denoised_row, eps_row

NUMBERS = st.floats(-3.0, 3.0)
LEVELS = st.floats(0.05, 0.999)


def inputs(x: float, model: float) -> np.ndarray:
    return np.array([x, 0.0, 0.0, 0.0, model, 0.0])


@given(x0=NUMBERS, eps=NUMBERS, alpha=LEVELS)
def test_a_perfect_prediction_of_any_kind_gives_x0(x0: float, eps: float, alpha: float) -> None:
    sigma = (1.0 - alpha**2) ** 0.5
    x = alpha * x0 + sigma * eps
    outputs = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}
    found = [denoised_row(kind, alpha, sigma) @ inputs(x, m) for kind, m in outputs.items()]
    assert np.allclose(found, x0, atol=1e-9)


@given(x0=NUMBERS, eps=NUMBERS, sigma=st.floats(0.03, 100.0))
def test_the_scale_of_latents_does_not_matter(x0: float, eps: float, sigma: float) -> None:
    norm = (1.0 + sigma**2) ** 0.5
    v = (eps - sigma * x0) / norm
    exploding = denoised_row("v_prediction", 1.0, sigma) @ inputs(x0 + sigma * eps, v)
    preserving = denoised_row("v_prediction", 1 / norm, sigma / norm)
    assert np.allclose(
        [exploding, preserving @ inputs((x0 + sigma * eps) / norm, v)], x0, atol=1e-9
    )


@given(x0=NUMBERS, eps=NUMBERS, alpha=LEVELS)
def test_what_is_left_of_x_is_the_noise(x0: float, eps: float, alpha: float) -> None:
    sigma = (1.0 - alpha**2) ** 0.5
    row = eps_row(denoised_row("sample", alpha, sigma), alpha, sigma)
    assert np.isclose(row @ inputs(alpha * x0 + sigma * eps, x0), eps, atol=1e-9)


def test_v_is_defined_where_no_signal_is_left() -> None:
    assert denoised_row("v_prediction", 0.0, 1.0) @ inputs(0.7, -0.2) == 0.2


@given(x0=NUMBERS, eps=NUMBERS, sigma=st.floats(0.002, 80.0))
@pytest.mark.parametrize(("kind", "sign"), [("epsilon", 1.0), ("v_prediction", -1.0)])
def test_edm_preconditioning_inverts(
    kind: str, sign: float, x0: float, eps: float, sigma: float
) -> None:
    data, x = 0.5, x0 + sigma * eps
    c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
    output = sign * (x0 - c_skip * x) / c_out
    assert np.isclose(edm_denoised_row(kind, sigma, data) @ inputs(x, output), x0, atol=1e-9)
