"""Routes made from requests."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.diffusion import NoiseSchedule, SolverConfig, make_plan
from diptych.errors import ExpertMissing, InvalidRequest
from diptych.inference.routing import ACTIVE, DENOISED, MATRIX, SCALE, make_route
from diptych.inference.trajectory import Expert, ImageRequest, StageSettings

SCHEDULE = NoiseSchedule(prediction_type="v_prediction")
BOTH = {Expert.BASE: SCHEDULE, Expert.REFINER: SCHEDULE}


def request(**settings: object) -> ImageRequest:
    plain = ImageRequest(
        request_id="a",
        width=64,
        height=64,
        seed=1,
        num_steps=20,
        boundary=0.65,
        base=StageSettings(prompt="a", guidance_scale=7.0),
        refiner=StageSettings(prompt="b", guidance_scale=3.0),
    )
    return replace(plain, **settings)  # type: ignore[arg-type]


def test_carries_the_plan_of_both_experts() -> None:
    route = make_route(request(solver="unipc"), BOTH)
    plan = make_plan(SCHEDULE, SolverConfig(name="unipc"), 20, boundary=0.65)
    np.testing.assert_array_equal(
        route.coefficients[:, MATRIX], plan.matrix.reshape(-1, 24).astype(np.float32)
    )
    np.testing.assert_array_equal(route.coefficients[:, DENOISED], plan.denoised.astype(np.float32))


def test_a_refiner_without_a_step_has_an_empty_route() -> None:
    route = make_route(request(base=None, num_steps=1, boundary=0.9999), BOTH)
    assert (len(route), route.num_steps, route.work(), route.start) == (0, 0, {}, (1.0, 0.0))


def test_every_expert_has_its_own_guidance() -> None:
    route = make_route(request(), BOTH)
    scales = dict(zip(route.experts, route.coefficients[:, SCALE].tolist(), strict=True))
    assert scales == {Expert.BASE: 7.0, Expert.REFINER: 3.0}


def test_a_scale_of_one_needs_one_row() -> None:
    base = StageSettings(prompt="a", guidance_scale=1.0)
    route = make_route(request(base=base, refiner=None, boundary=None), BOTH)
    assert set(route.num_rows) == {1}


def test_guidance_acts_inside_its_interval_only() -> None:
    base = StageSettings(prompt="a", guidance_interval=(0.25, 0.75))
    route = make_route(request(base=base, refiner=None, boundary=None), BOTH)
    active = route.coefficients[:, ACTIVE]
    assert (active[0], active[10], active[-1]) == (0.0, 1.0, 0.0)


def test_names_the_expert_that_is_missing() -> None:
    with pytest.raises(ExpertMissing, match="refiner"):
        make_route(request(), {Expert.BASE: SCHEDULE})


def test_refuses_a_request_without_stages() -> None:
    with pytest.raises(InvalidRequest, match="neither"):
        make_route(request(base=None, refiner=None), BOTH)


def test_refuses_what_makes_no_plan() -> None:
    with pytest.raises(InvalidRequest, match="solver"):
        make_route(request(solver="magic"), BOTH)
