"""DPM-Solver++ 2M: order two inside, order one where it must be."""

from types import SimpleNamespace

import numpy as np
import pytest

from diptych.diffusion import NoiseSchedule, SolverConfig, make_plan
from diptych.diffusion.symbols import H1

SCHEDULE = NoiseSchedule(prediction_type="sample", timestep_spacing="trailing")
COLUMN_H1 = int(np.argmax(H1))


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_first_and_last_step_use_no_history(name: str) -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name=name), 20, experts=("base",))
    used = plan.matrix[:, 0, COLUMN_H1] != 0.0
    assert used.tolist() == [False, *[True] * 18, False]


def test_a_schedule_that_stops_above_zero_may_end_on_second_order() -> None:
    schedule = NoiseSchedule(timestep_spacing="trailing", final_sigmas_type="sigma_min")
    ends = [
        make_plan(schedule, SolverConfig(name="dpmpp_2m"), n, experts=("base",)).matrix[-1, 0, 2]
        for n in (14, 15)
    ]
    assert [end != 0.0 for end in ends] == [False, True]


def test_remembers_only_the_last_estimate() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="dpmpp_2m"), 9, experts=("base",))
    assert np.array_equal(plan.matrix[:, 2], plan.denoised)
    assert not plan.matrix[:, [1, 3]].any()


def test_the_sde_lands_on_the_variance_of_the_next_level() -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name="dpmpp_2m_sde"), 9, experts=("base",))
    variance = 1.0 - SCHEDULE.alphas_cumprod[plan.timestep.astype(int)]
    reached = plan.matrix[:-1, 0, 0] ** 2 * variance[:-1] + plan.matrix[:-1, 0, 5] ** 2
    assert np.allclose(reached, variance[1:], rtol=1e-5)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_a_constant_estimate_is_reached_exactly(name: str, trajectories: SimpleNamespace) -> None:
    plan = make_plan(SCHEDULE, SolverConfig(name=name), 9, experts=("base",))
    assert trajectories.solve(plan, 1.3, lambda z, t: 0.7)[-1] == pytest.approx(0.7, abs=1e-12)
