"""UniPC: the corrector is off where a solver begins, and the memory holds what it says."""

from types import SimpleNamespace

import numpy as np
import pytest

from diptych.diffusion import NoiseSchedule, SolverConfig, make_plan
from diptych.diffusion.solvers.unipc import _corrector_weights

SCHEDULE = NoiseSchedule(prediction_type="sample", timestep_spacing="trailing")
PLAN = make_plan(SCHEDULE, SolverConfig(name="unipc"), 12, experts=("base",))


def test_the_first_evaluation_corrects_nothing() -> None:
    assert PLAN.matrix[0, 1].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_later_evaluations_correct_from_the_last_point_not_the_predicted_one() -> None:
    assert not PLAN.matrix[1:, :2, 0].any()
    assert (PLAN.matrix[1:, 1, 1] != 0.0).all()


def test_the_memory_holds_the_last_two_estimates() -> None:
    assert np.array_equal(PLAN.matrix[:, 2], PLAN.denoised)
    assert PLAN.matrix[5, 3].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_the_last_step_is_the_denoised_estimate() -> None:
    assert np.allclose(PLAN.matrix[-1, 0], PLAN.denoised[-1], atol=1e-12)


@pytest.mark.parametrize(("h", "r"), [(0.05, -0.9), (0.4, -1.3), (2.0, -0.5)])
def test_weights_solve_the_papers_equations(h: float, r: float) -> None:
    b = np.expm1(-h)
    phi_1 = b / -h - 1.0
    phi_2 = phi_1 / -h - 0.5
    system = np.array([[1.0, 1.0], [r, 1.0]])
    expected = np.linalg.solve(system, [phi_1 / b, 2.0 * phi_2 / b])
    assert np.allclose(_corrector_weights(h, r), expected, rtol=1e-9)


def test_a_constant_estimate_is_reached_exactly(trajectories: SimpleNamespace) -> None:
    assert trajectories.solve(PLAN, 1.3, lambda z, t: 0.7)[-1] == pytest.approx(0.7, abs=1e-12)


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m"])
def test_twenty_steps_follow_the_exact_flow(name: str, trajectories: SimpleNamespace) -> None:
    """Data are N(0, 0.36), for which the flow scales x by the ratio of standard deviations."""
    table = SCHEDULE.alphas_cumprod

    def posterior_mean(z: float, t: float) -> float:
        signal = float(np.interp(t, np.arange(1000), table))
        share: float = 0.36 * signal**0.5 / (0.36 * signal + 1.0 - signal)
        return share * z

    config = SolverConfig(name=name, sigma_schedule="karras")
    plan = make_plan(SCHEDULE, config, 20, experts=("base",))
    exact = 1.3 * 0.6 / (0.36 * table[-1] + 1.0 - table[-1]) ** 0.5
    end = trajectories.solve(plan, 1.3, posterior_mean)[-1]
    assert end == pytest.approx(exact, abs=0.015)
