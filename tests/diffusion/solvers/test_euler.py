"""Euler, ancestral Euler and Heun against solutions known in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest

from diptych.diffusion import EdmSchedule, NoiseSchedule, SolverConfig, make_plan

SAMPLE = NoiseSchedule(prediction_type="sample", timestep_spacing="linspace", steps_offset=0)
EPSILON = NoiseSchedule()
VARIANCE = 0.36


def error_of(name: str, num_steps: int, trajectories: SimpleNamespace) -> float:
    """Return how far a plan is from the exact flow at its lowest sigma, data being N(0, 0.36).

    The flow of Karras et al. 2022, equation 1, scales x by the ratio of standard deviations.
    """
    config = SolverConfig(name=name, sigma_schedule="karras")
    plan = make_plan(SAMPLE, config, num_steps, experts=("base",))
    variances = plan.c_in**-2 - 1.0
    by_time = dict(zip(plan.timestep.tolist(), variances.tolist(), strict=True))

    def posterior_mean(z: float, t: float) -> float:
        mean: float = VARIANCE / (VARIANCE + by_time[t]) * z * (by_time[t] + 1.0) ** 0.5
        return mean

    found = trajectories.solve(plan, 5.0, posterior_mean)[-2]
    exact = 5.0 * ((VARIANCE + variances[-1]) / (VARIANCE + variances[0])) ** 0.5
    return float(abs(found - exact))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_error_falls_with_the_order_of_the_solver(
    name: str, order: int, trajectories: SimpleNamespace
) -> None:
    coarse, fine = (error_of(name, n, trajectories) for n in (50, 100))
    assert fine < coarse / (0.85 * 2**order)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_a_constant_estimate_is_reached_exactly(name: str, trajectories: SimpleNamespace) -> None:
    plan = make_plan(SAMPLE, SolverConfig(name=name), 7, experts=("base",))
    end = trajectories.solve(plan, 12.0, lambda z, t: 0.7)[-1]
    assert end == pytest.approx(0.7, abs=1e-12)


def test_euler_keeps_the_noise_and_shrinks_it() -> None:
    plan = make_plan(SAMPLE, SolverConfig(name="euler"), 7, experts=("base",))
    sigma = (plan.c_in**-2 - 1.0) ** 0.5
    assert np.allclose(plan.matrix[:-1, 0, 0], sigma[1:] / sigma[:-1])


def test_ancestral_step_lands_on_the_variance_of_the_next_level() -> None:
    plan = make_plan(EPSILON, SolverConfig(name="euler_ancestral"), 7, experts=("base",))
    variance = plan.c_in**-2 - 1.0
    kept = variance**0.5 * plan.matrix[:, 0, 0] + plan.matrix[:, 0, 4]
    reached = kept[:-1] ** 2 + plan.matrix[:-1, 0, 5] ** 2
    assert np.allclose(reached, variance[1:])


def test_ancestral_draws_even_where_it_adds_nothing() -> None:
    plan = make_plan(EPSILON, SolverConfig(name="euler_ancestral"), 7, experts=("base",))
    assert plan.needs_noise.all()
    assert plan.matrix[-1, 0, 5] == 0.0


def test_a_step_to_sigma_zero_is_the_denoised_estimate() -> None:
    plan = make_plan(NoiseSchedule(), SolverConfig(name="euler"), 7, experts=("base",))
    assert np.array_equal(plan.matrix[-1, 0], plan.denoised[-1])


def test_edm_scales_inputs_by_the_spread_of_data() -> None:
    schedule = NoiseSchedule(edm=EdmSchedule(sigma_data=0.5))
    plan = make_plan(schedule, SolverConfig(name="edm_euler"), 7, experts=("base",))
    sigma = np.exp(4.0 * plan.timestep)
    assert np.allclose(plan.c_in, (sigma**2 + 0.25) ** -0.5)
