"""Sigma schedules keep their ends and their order, and quantiles are exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diptych.diffusion import NoiseSchedule
from diptych.diffusion.respacing import beta_quantiles, respaced_sigmas, timesteps_of_sigmas

NAMES = ("karras", "exponential", "beta")


@pytest.mark.parametrize("shape", [0.4, 0.6, 0.9])
def test_beta_quantiles_are_scipys(shape: float) -> None:
    probabilities = np.concatenate([np.linspace(0, 1, 201), [1e-9, 1e-4, 1 - 1e-6]])
    theirs = stats.beta.ppf(probabilities, shape, shape)
    assert np.allclose(beta_quantiles(probabilities, shape), theirs, atol=1e-12, rtol=1e-9)


def test_beta_quantiles_end_exactly_at_the_ends() -> None:
    assert beta_quantiles(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@given(
    name=st.sampled_from(NAMES),
    low=st.floats(1e-3, 0.5),
    high=st.floats(1.0, 5000.0),
    num=st.integers(2, 200),
)
def test_sigmas_fall_from_one_end_to_the_other(
    name: str, low: float, high: float, num: int
) -> None:
    sigmas = respaced_sigmas(name, low, high, num)
    assert np.allclose(sigmas[[0, -1]], [high, low])
    assert (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_step_starts_at_the_highest_sigma(name: str) -> None:
    assert np.allclose(respaced_sigmas(name, 0.03, 14.6, 1), [14.6])


@given(timesteps=st.lists(st.integers(0, 999), min_size=1, max_size=20))
def test_timesteps_of_table_sigmas_are_their_indices(timesteps: list[int]) -> None:
    table = NoiseSchedule().sigmas
    found = timesteps_of_sigmas(table[timesteps].astype(np.float64), table)
    assert np.allclose(found, timesteps, atol=1e-3)


def test_sigmas_beyond_the_table_stay_at_its_ends() -> None:
    table = NoiseSchedule().sigmas
    assert timesteps_of_sigmas(np.array([1e-6, 1e6]), table).tolist() == [0.0, 999.0]
