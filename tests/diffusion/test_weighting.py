"""Weights by timestep against their formulas, and finite where no signal is left."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.diffusion.schedule import NoiseSchedule
from diptych.diffusion.weighting import (
    alphas_sigmas,
    huber_thresholds,
    min_snr_weights,
    signal_to_noise,
)

SDXL = NoiseSchedule()
ZERO_SNR = NoiseSchedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def x0_error_scale(prediction_type: str, snr: float) -> float:
    """Return what an error of x0 becomes in the prediction, squared.

    With x_t given, eps = (x_t - a x0) / s, so an error d of x0 is -(a/s) d of eps; and
    v = a eps - s x0 errs by -(a^2/s + s) d = -d / s.
    """
    alpha_squared, sigma_squared = snr / (1 + snr), 1 / (1 + snr)
    return {
        "epsilon": alpha_squared / sigma_squared,
        "v_prediction": 1 / sigma_squared,
        "sample": 1.0,
    }[prediction_type]


@pytest.mark.parametrize("schedule", [SDXL, ZERO_SNR])
def test_alpha_and_sigma_preserve_variance(schedule: NoiseSchedule) -> None:
    alpha, sigma = alphas_sigmas(schedule)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-15)
    np.testing.assert_array_equal(alpha**2 > 0, np.arange(1000) < 1000 - (schedule is ZERO_SNR))


@pytest.mark.parametrize("schedule", [SDXL, ZERO_SNR])
def test_signal_to_noise_falls(schedule: NoiseSchedule) -> None:
    assert (np.diff(signal_to_noise(schedule)) < 0).all()


def test_no_signal_is_left_at_the_end_of_a_zero_snr_schedule() -> None:
    assert signal_to_noise(ZERO_SNR)[-1] == 0.0


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(
    prediction_type: str, gamma: float
) -> None:
    weights = min_snr_weights(replace(SDXL, prediction_type=prediction_type), gamma)
    snr = signal_to_noise(SDXL)
    on_x0 = [
        weight * x0_error_scale(prediction_type, one)
        for weight, one in zip(weights, snr, strict=True)
    ]
    np.testing.assert_allclose(on_x0, np.minimum(snr, gamma), rtol=1e-12)


@pytest.mark.parametrize(
    ("prediction_type", "expected"), [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)]
)
def test_min_snr_is_its_limit_where_no_signal_is_left(
    prediction_type: str, expected: float
) -> None:
    weights = min_snr_weights(replace(ZERO_SNR, prediction_type=prediction_type), 5.0)
    assert np.isfinite(weights).all()
    assert weights[999] == expected


def test_min_snr_of_v_is_neither_that_of_eps_nor_one_more() -> None:
    snr = signal_to_noise(SDXL)
    weights = min_snr_weights(replace(SDXL, prediction_type="v_prediction"), 5.0)
    assert np.abs(weights - np.minimum(snr, 5.0) / snr).max() > 0.5
    assert (weights < 1.0).all()


def test_constant_huber_threshold_is_the_same_everywhere() -> None:
    assert set(huber_thresholds(SDXL, 0.1, "constant")) == {0.1}


def test_exponential_huber_threshold_falls_from_one_to_c() -> None:
    expected = [np.exp(np.log(0.1) / 1000 * t) for t in range(1000)]
    np.testing.assert_allclose(huber_thresholds(SDXL, 0.1, "exponential"), expected, rtol=1e-12)


def test_huber_threshold_by_snr_is_the_published_form() -> None:
    a = SDXL.alphas_cumprod
    expected = (1 - 0.1) / (1 + ((1 - a) / a) ** 0.5) ** 2 + 0.1
    np.testing.assert_allclose(huber_thresholds(SDXL, 0.1, "snr"), expected, rtol=1e-12)


def test_huber_threshold_by_snr_is_c_where_no_signal_is_left() -> None:
    assert huber_thresholds(ZERO_SNR, 0.1, "snr")[-1] == 0.1
