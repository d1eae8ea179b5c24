"""What cannot be done is refused before anything is computed, field by field."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion import SOLVERS, EdmSchedule, NoiseSchedule, SolverConfig, make_plan
from diptych.errors import InvalidRequest

EPSILON = NoiseSchedule()
EDM = NoiseSchedule(edm=EdmSchedule())


def fields_refused(
    schedule: NoiseSchedule = EPSILON, num_steps: int = 10, **asked: Any
) -> list[str]:
    """Return the fields named in the refusal of what is asked."""
    options = {k: asked.pop(k) for k in ("experts", "boundary", "strength") if k in asked}
    if not options:
        options = {"experts": ("base",)}
    with pytest.raises(InvalidRequest) as refusal:
        make_plan(schedule, SolverConfig(**asked), num_steps, **options)
    return [violation.field for violation in refusal.value.violations]


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_steps_out_of_range(num_steps: int) -> None:
    assert fields_refused(num_steps=num_steps) == ["num_steps"]


@pytest.mark.parametrize("boundary", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_boundary_out_of_range(boundary: float) -> None:
    assert fields_refused(experts=("base", "refiner"), boundary=boundary) == ["boundary"]


@pytest.mark.parametrize("strength", [0.0, 1.01, math.nan])
def test_strength_out_of_range(strength: float) -> None:
    assert fields_refused(experts=("refiner",), strength=strength) == ["image.strength"]


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_eta_out_of_range(eta: float) -> None:
    assert fields_refused(name="ddim", eta=eta) == ["eta"]


@given(name=st.text(max_size=12).filter(lambda n: n not in SOLVERS))
def test_unknown_solver(name: str) -> None:
    assert fields_refused(name=name) == ["solver"]


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("spacing", {"spacing": "sideways"}),
        ("sigma_schedule", {"sigma_schedule": "cubic"}),
        ("history", {"history": "forget"}),
        ("history", {"history": "carry"}),
        ("spacing", {"name": "lcm", "spacing": "trailing"}),
        ("sigma_schedule", {"name": "ddim", "sigma_schedule": "karras"}),
        ("sigma_schedule", {"name": "euler_ancestral", "sigma_schedule": "karras"}),
        ("eta", {"name": "euler", "eta": 0.5}),
    ],
)
def test_setting_that_the_solver_does_not_have(field: str, asked: dict[str, Any]) -> None:
    assert fields_refused(**asked) == [field]


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_more_steps_than_the_student_was_distilled_on(name: str) -> None:
    assert fields_refused(name=name, num_steps=51) == ["num_steps"]


@pytest.mark.parametrize("name", ["edm_euler", "edm_dpmpp_2m"])
def test_edm_solver_on_another_schedule(name: str) -> None:
    assert fields_refused(name=name) == ["solver"]


@pytest.mark.parametrize("name", [n for n in SOLVERS if not n.startswith("edm")])
def test_other_solver_on_an_edm_schedule(name: str) -> None:
    assert fields_refused(EDM, name=name) == ["solver"]


def test_edm_schedule_has_nothing_to_cut() -> None:
    assert fields_refused(EDM, name="edm_euler", boundary=0.5) == ["boundary"]


def test_edm_has_no_beta_sigmas() -> None:
    assert fields_refused(EDM, name="edm_euler", sigma_schedule="beta") == ["sigma_schedule"]


def test_ancestral_euler_takes_no_model_that_predicts_the_sample() -> None:
    schedule = NoiseSchedule(prediction_type="sample")
    assert fields_refused(schedule, name="euler_ancestral") == ["solver"]


@pytest.mark.parametrize("name", ["ddim", "heun", "lcm"])
def test_checkpoint_that_would_have_to_be_clipped(name: str) -> None:
    assert fields_refused(NoiseSchedule(clip_sample=True), name=name) == ["solver"]


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("experts", {"experts": ("refiner", "base"), "boundary": 0.5}),
        ("boundary", {"experts": ("base", "refiner")}),
        ("boundary", {"experts": ("refiner",)}),
        ("image.strength", {"experts": ("refiner",), "boundary": 0.5, "strength": 0.5}),
        ("image.strength", {"experts": ("base", "refiner"), "boundary": 0.5, "strength": 0.5}),
    ],
)
def test_stages_that_tell_no_story(field: str, options: dict[str, Any]) -> None:
    assert fields_refused(**options) == [field]


def test_every_violation_is_named_at_once() -> None:
    asked: dict[str, Any] = {
        "name": "edm_euler",
        "eta": 2.0,
        "spacing": "x",
        "boundary": 7.0,
        "num_steps": 0,
    }
    found = fields_refused(**asked)
    assert set(found) == {"solver", "eta", "spacing", "boundary", "num_steps"}
