"""A plan is what diffusers' two pipelines would do, known before the first model call."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion import SOLVERS, EdmSchedule, NoiseSchedule, Plan, SolverConfig, make_plan
from diptych.errors import InvalidRequest

V_ZERO_SNR = NoiseSchedule(
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    steps_offset=0,
)
EPSILON = NoiseSchedule()
EDM = NoiseSchedule(edm=EdmSchedule())
DISCRETE = [name for name in SOLVERS if not name.startswith("edm")]


def plan_of(name: str, num_steps: int = 10, **asked: Any) -> Plan:
    return make_plan(V_ZERO_SNR, SolverConfig(name=name), num_steps, **asked)


@given(name=st.sampled_from(DISCRETE), num_steps=st.integers(1, 50), boundary=st.floats(0.01, 0.99))
def test_steps_count_from_one_to_the_number_asked(
    name: str, num_steps: int, boundary: float
) -> None:
    plan = plan_of(name, num_steps, boundary=boundary)
    assert plan.num_steps == num_steps
    assert sorted(set(plan.step.tolist())) == list(range(1, num_steps + 1))
    assert (np.diff(plan.step) >= 0).all()


@given(name=st.sampled_from(DISCRETE), num_steps=st.integers(2, 50), boundary=st.floats(0.1, 0.9))
def test_two_plans_of_one_expert_are_the_plan_of_both(
    name: str, num_steps: int, boundary: float
) -> None:
    both = plan_of(name, num_steps, boundary=boundary)
    parts = []
    for expert, evaluations in (
        ("base", both.base_evaluations),
        ("refiner", both.refiner_evaluations),
    ):
        if evaluations.start < evaluations.stop:
            parts.append(plan_of(name, num_steps, experts=(expert,), boundary=boundary).matrix)
    assert np.array_equal(np.concatenate(parts), both.matrix)


@pytest.mark.parametrize("name", DISCRETE)
def test_slices_name_the_expert_of_every_evaluation(name: str) -> None:
    plan = plan_of(name, 20, boundary=0.65)
    assert set(plan.expert[plan.base_evaluations]) == {0}
    assert set(plan.expert[plan.refiner_evaluations]) == {1}
    assert plan.refiner_evaluations.stop == plan.num_evaluations


def test_heun_takes_two_evaluations_for_every_step_but_the_last() -> None:
    plan = plan_of("heun", 4, experts=("base",))
    assert plan.step.tolist() == [1, 1, 2, 2, 3, 3, 4]


def test_a_cut_never_splits_a_step_of_heun() -> None:
    plan = plan_of("heun", 10, boundary=0.65)
    refiner = plan.timestep[plan.refiner_evaluations]
    assert len(refiner) % 2 == 1
    assert refiner[0] == plan.timestep[plan.base_evaluations][-1]


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_restart_forgets_and_carry_remembers(name: str) -> None:
    first = plan_of(name, 20, boundary=0.65).refiner_evaluations.start
    restarted = plan_of(name, 20, boundary=0.65).matrix[first]
    carry = SolverConfig(name=name, history="carry")
    carried = make_plan(V_ZERO_SNR, carry, 20, boundary=0.65).matrix[first]
    assert not restarted[:, 1:4].any()
    assert carried[:, 1:4].any()


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_history_makes_no_difference_to_a_solver_that_has_none(name: str) -> None:
    carry = make_plan(V_ZERO_SNR, SolverConfig(name=name, history="carry"), 9, boundary=0.65)
    assert np.array_equal(carry.matrix, plan_of(name, 9, boundary=0.65).matrix)


@pytest.mark.parametrize("name", SOLVERS)
def test_start_equals_diffusers_initial_scale(name: str, trajectories: SimpleNamespace) -> None:
    case = trajectories.Case(solver=name, spacing="leading", num_steps=9)
    assert np.isclose(case.plan().init_noise_sigma, float(case.scheduler().init_noise_sigma))
    assert case.plan().init_signal == 0.0


def test_refining_latents_adds_no_noise() -> None:
    plan = plan_of("euler", 20, experts=("refiner",), boundary=0.65)
    assert (plan.init_signal, plan.init_noise_sigma) == (1.0, 0.0)


def test_strength_redoes_the_last_share_of_the_steps() -> None:
    plan = plan_of("unipc", 40, experts=("refiner",), strength=0.3)
    whole = plan_of("unipc", 40, experts=("base",))
    assert plan.num_steps == 12
    assert plan.timestep.tolist() == whole.timestep[-12:].tolist()


def test_strength_noises_a_picture_to_unit_variance() -> None:
    plan = plan_of("ddim", 40, experts=("refiner",), strength=0.5)
    assert np.isclose(plan.init_signal**2 + plan.init_noise_sigma**2, 1.0)


def test_strength_starts_a_base_that_stops_at_a_boundary() -> None:
    plan = plan_of("euler", 40, experts=("base",), strength=0.5, boundary=0.75)
    whole = plan_of("euler", 40, experts=("base",))
    assert plan.timestep.tolist() == whole.timestep[20:30].tolist()


def test_fractions_are_on_the_scale_of_the_boundary() -> None:
    plan = plan_of("euler", 40, boundary=0.65)
    assert plan.fraction[plan.base_evaluations].max() <= 0.65
    assert plan.fraction[plan.refiner_evaluations].min() > 0.65


def test_a_request_overrides_what_the_checkpoint_states() -> None:
    asked = SolverConfig(name="euler", spacing="linspace", sigma_schedule="karras")
    stated = NoiseSchedule(timestep_spacing="linspace", sigma_schedule="karras")
    override = make_plan(EPSILON, asked, 9, experts=("base",))
    own = make_plan(stated, SolverConfig(name="euler"), 9, experts=("base",))
    assert np.array_equal(override.matrix, own.matrix)


def test_equal_requests_share_one_immutable_plan() -> None:
    first, second = (plan_of("unipc", 33, boundary=0.65) for _ in range(2))
    assert first is second
    assert not any(
        getattr(first, f).flags.writeable for f in ("matrix", "timestep", "c_in", "step")
    )


def test_a_plan_is_made_in_milliseconds() -> None:
    plan_of("unipc", 49, boundary=0.65)
    begin = time.process_time()
    for num_steps in range(20, 30):
        plan_of("unipc", num_steps + 20, boundary=0.61)
    assert (time.process_time() - begin) / 10 < 0.02


@pytest.mark.parametrize("boundary", [0.001, 0.999])
def test_an_expert_may_be_left_without_steps(boundary: float) -> None:
    plan = plan_of("euler", 2, boundary=boundary)
    assert plan.num_evaluations == 2


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize(("expert", "boundary"), [("base", 0.0001), ("refiner", 0.999)])
def test_a_lone_expert_may_be_left_without_steps(name: str, expert: str, boundary: float) -> None:
    plan = plan_of(name, 1, experts=(expert,), boundary=boundary)
    assert (plan.num_evaluations, plan.num_steps, plan.matrix.shape) == (0, 0, (0, 4, 6))


def test_a_strength_must_leave_a_step() -> None:
    with pytest.raises(InvalidRequest, match=r"image\.strength: 0.1 leaves none of 2 steps"):
        plan_of("euler", 2, experts=("refiner",), strength=0.1)


@pytest.mark.parametrize("name", ["ddim", "heun", "lcm", "tcd"])
def test_an_epsilon_model_cannot_start_at_zero_signal(name: str) -> None:
    schedule = NoiseSchedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(InvalidRequest, match="cannot start an epsilon model"):
        make_plan(schedule, SolverConfig(name=name), 10, experts=("base",))


@pytest.mark.parametrize("sigmas", ["karras", "exponential", "beta"])
def test_respaced_sigmas_start_heun_at_zero_signal_too(sigmas: str) -> None:
    schedule = NoiseSchedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(InvalidRequest, match="solver: heun cannot start an epsilon model"):
        make_plan(schedule, SolverConfig(name="heun", sigma_schedule=sigmas), 7, experts=("base",))


@pytest.mark.parametrize(
    "asked",
    [
        {"solver": SolverConfig(name="heun", spacing="leading"), "experts": ("base",)},
        {"solver": SolverConfig(name="heun"), "experts": ("refiner",), "boundary": 0.65},
        {"solver": SolverConfig(name="heun"), "experts": ("refiner",), "strength": 0.5},
    ],
)
def test_heun_takes_an_epsilon_model_where_some_signal_is_left(asked: dict[str, Any]) -> None:
    schedule = NoiseSchedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert make_plan(schedule, num_steps=10, **asked).num_steps > 0


def test_ddim_cannot_reach_beyond_training() -> None:
    with pytest.raises(InvalidRequest, match="num_steps: 1000 reach beyond"):
        make_plan(EPSILON, SolverConfig(name="ddim"), 1000, experts=("base",))


def test_a_solver_without_finite_steps_is_refused() -> None:
    schedule = NoiseSchedule(timestep_spacing="trailing", lower_order_final=False)
    with pytest.raises(InvalidRequest, match="no finite step"):
        make_plan(schedule, SolverConfig(name="unipc"), 10, experts=("base",))
