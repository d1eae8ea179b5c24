"""LCM and TCD: few steps, noise between them and none after the last."""

import numpy as np
import pytest

from diptych.diffusion import NoiseSchedule, SolverConfig, make_plan

SCHEDULE = NoiseSchedule(prediction_type="sample")


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_the_last_evaluation_draws_no_noise(name: str) -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name=name), 4, experts=("base",))
    assert plan.needs_noise.tolist() == [True, True, True, False]


def test_the_base_renoises_for_the_refiner() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="lcm"), 8, experts=("base",), boundary=0.65)
    assert plan.needs_noise.all()


def test_tcd_without_noise_draws_none() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="tcd", eta=0.0), 4, experts=("base",))
    assert not plan.needs_noise.any()


def test_lcm_renoises_to_unit_variance() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="lcm"), 4, experts=("base",))
    signal = SCHEDULE.alphas_cumprod[plan.timestep[1:].astype(int)]
    assert np.allclose(plan.matrix[:-1, 0, 5] ** 2, 1.0 - signal)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_lands_on_the_variance_of_the_next_level(eta: float) -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="tcd", eta=eta), 4, experts=("base",))
    variance = 1.0 - SCHEDULE.alphas_cumprod[plan.timestep.astype(int)]
    reached = plan.matrix[:-1, 0, 0] ** 2 * variance[:-1] + plan.matrix[:-1, 0, 5] ** 2
    assert np.allclose(reached, variance[1:])


def test_lcm_ends_on_its_estimate_where_time_is_late() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="lcm"), 1, experts=("base",))
    assert np.allclose(plan.matrix[0, 0], plan.denoised[0], atol=1e-4)
