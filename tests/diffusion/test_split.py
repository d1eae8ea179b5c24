"""The boundary is one number for training and inference, and the experts share nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion import (
    NoiseSchedule,
    SolverConfig,
    base_timesteps,
    boundary_from_refiner_strength,
    boundary_timestep,
    make_plan,
    refiner_strength_from_boundary,
    refiner_timesteps,
)
from diptych.errors import InvalidRequest

BOUNDARIES = st.floats(0.01, 0.99)


@given(num_train=st.integers(10, 4000), boundary=BOUNDARIES)
def test_experts_cover_the_schedule_once(num_train: int, boundary: float) -> None:
    owned = [*refiner_timesteps(num_train, boundary), *base_timesteps(num_train, boundary)]
    assert owned == list(range(num_train))


@given(boundary=BOUNDARIES)
def test_strength_and_boundary_are_inverse(boundary: float) -> None:
    strength = refiner_strength_from_boundary(boundary)
    assert math.isclose(boundary_from_refiner_strength(strength), boundary)


@given(percent=st.integers(1, 99))
def test_training_strength_gives_the_cut_of_inference(percent: int) -> None:
    boundary = boundary_from_refiner_strength(percent / 100)
    assert len(refiner_timesteps(1000, boundary)) == percent * 10


@given(boundary=BOUNDARIES, num_steps=st.integers(2, 60))
def test_every_evaluation_is_in_its_experts_training_range(boundary: float, num_steps: int) -> None:
    schedule = NoiseSchedule(timestep_spacing="trailing")
    plan = make_plan(schedule, SolverConfig(name="ddim"), num_steps, boundary=boundary)
    ranges = base_timesteps(1000, boundary), refiner_timesteps(1000, boundary)
    owners = zip(plan.timestep, plan.expert, strict=True)
    assert all(int(t) in ranges[expert] for t, expert in owners)


@pytest.mark.parametrize(("boundary", "cut"), [(0.35, 650), (0.65, 350), (0.8, 200), (0.9995, 0)])
def test_cut_is_the_one_diffusers_makes(boundary: float, cut: int) -> None:
    assert boundary_timestep(1000, boundary) == cut


@pytest.mark.parametrize("boundary", [0.0, 1.0, -0.2, 1.5, math.nan, math.inf])
def test_refuses_a_boundary_that_leaves_an_expert_nothing(boundary: float) -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        boundary_timestep(1000, boundary)
