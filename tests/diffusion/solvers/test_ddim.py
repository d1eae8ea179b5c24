"""DDIM is Euler on another scale, and its noise has the variance it says."""

import numpy as np
import pytest

from diptych.diffusion import NoiseSchedule, Plan, SolverConfig, make_plan

SCHEDULE = NoiseSchedule(timestep_spacing="leading", steps_offset=0)


def plan_of(eta: float | None, schedule: NoiseSchedule = SCHEDULE) -> Plan:
    return make_plan(schedule, SolverConfig(name="ddim", eta=eta), 20, experts=("base",))


def test_without_noise_it_is_euler_on_the_unit_scale() -> None:
    euler = make_plan(SCHEDULE, SolverConfig(name="euler"), 20, experts=("base",))
    alpha = np.append(SCHEDULE.alphas_cumprod[euler.timestep.astype(int)] ** 0.5, 1.0)
    rescaled = euler.matrix[:, 0, 4] * alpha[1:]
    assert np.allclose(plan_of(0.0).matrix[:, 0, 4], rescaled, atol=1e-6)


@pytest.mark.parametrize(("eta", "draws"), [(None, False), (0.0, False), (0.3, True), (1.0, True)])
def test_noise_is_drawn_at_every_step_or_never(eta: float | None, draws: bool) -> None:
    assert plan_of(eta).needs_noise.tolist() == [draws] * 20


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_total_variance_does_not_depend_on_eta(eta: float) -> None:
    schedule = NoiseSchedule(prediction_type="sample", timestep_spacing="leading", steps_offset=0)
    quiet, noisy = (plan_of(e, schedule).matrix[:-1, 0] for e in (0.0, eta))
    sigma = (1.0 - schedule.alphas_cumprod[plan_of(eta).timestep.astype(int)[:-1]]) ** 0.5
    variance = (noisy[:, 0] * sigma) ** 2 + noisy[:, 5] ** 2
    assert np.allclose(variance, (quiet[:, 0] * sigma) ** 2)


def test_the_last_step_ends_clean_or_at_the_lowest_level() -> None:
    stays_noisy = NoiseSchedule(timestep_spacing="leading", steps_offset=0, set_alpha_to_one=False)
    clean, noisy = plan_of(0.0), plan_of(0.0, stays_noisy)
    assert np.array_equal(clean.matrix[-1, 0], clean.denoised[-1])
    assert np.allclose(noisy.matrix[-1, 0, [0, 4]], [1.0, 0.0], atol=1e-9)
