"""A stage and a boundary become the ranges that inference cuts its schedule at."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion.split import boundary_from_refiner_strength, boundary_timestep
from diptych.errors import InvalidRequest
from diptych.training.experts import expert_plans, expert_sources, reads_trained_texts
from diptych.training.spec import ModelSpec
from support.job_texts import job

BOTH = job("stage: both", "boundary: 0.65")
BOUNDARIES = st.floats(0.001, 0.999)


def test_a_strength_of_35_percent_parts_the_schedule_at_350() -> None:
    base, refiner = expert_plans(replace(BOTH, boundary=boundary_from_refiner_strength(0.35)))
    assert (base.first_timestep, base.last_timestep) == (350, 999)
    assert (refiner.first_timestep, refiner.last_timestep) == (0, 349)


@given(BOUNDARIES, st.sampled_from([1000, 1001, 4000]))
def test_experts_meet_where_inference_hands_over(boundary: float, length: int) -> None:
    base, refiner = expert_plans(replace(BOTH, boundary=boundary), num_train_timesteps=length)
    cut = boundary_timestep(length, boundary)
    assert base.timesteps == range(cut, length)
    assert refiner.timesteps == range(cut)


@given(BOUNDARIES)
def test_a_stage_alone_has_the_range_that_it_has_of_both(boundary: float) -> None:
    both = expert_plans(replace(BOTH, boundary=boundary))
    alone = [replace(BOTH, boundary=boundary, stage=stage) for stage in ("base", "refiner")]
    assert [expert_plans(spec)[0].timesteps for spec in alone] == [one.timesteps for one in both]


def test_a_strength_between_thousandths_rounds_as_inference_does() -> None:
    boundary = boundary_from_refiner_strength(0.3335)
    base, _ = expert_plans(replace(BOTH, boundary=boundary))
    assert base.first_timestep == boundary_timestep(1000, boundary) == 334


def test_one_network_is_trained_on_all_timesteps() -> None:
    (plan,) = expert_plans(job())
    assert (plan.expert, plan.timesteps) == ("single", range(1000))


@pytest.mark.parametrize("boundary", [None, 0.0, 1.0, float("nan"), 0.00001, 0.99999])
def test_a_boundary_that_leaves_an_expert_nothing_is_refused(boundary: float | None) -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        expert_plans(replace(BOTH, boundary=boundary))


@pytest.mark.parametrize(
    ("stage", "model", "sources"),
    [
        ("single", ModelSpec(), {"single": "nano/base-single"}),
        ("base", ModelSpec(), {"base": "nano"}),
        ("both", ModelSpec(source="a"), {"base": "a", "refiner": "a"}),
        ("both", ModelSpec(source="a", refiner="b"), {"base": "a", "refiner": "b"}),
        ("refiner", ModelSpec(source="a"), {"refiner": "a"}),
    ],
)
def test_each_expert_starts_from_its_model(
    stage: str, model: ModelSpec, sources: dict[str, str]
) -> None:
    spec = replace(BOTH, stage=stage, model=model)  # type: ignore[arg-type]
    assert expert_sources(spec) == sources


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("stage: both", "boundary: 0.5", "text_encoders: {method: lora}"), [False, True]),
        (("stage: both", "boundary: 0.5"), [False, False]),
        (("stage: refiner", "boundary: 0.5", "text_encoders: {method: lora}"), [False]),
        (
            ("stage: both", "boundary: 0.5", "text_encoders: {method: lora}", "method: full"),
            [False, False],
        ),
    ],
)
def test_the_refiner_of_an_adapter_reads_as_the_base_learnt_to(
    lines: tuple[str, ...], found: list[bool]
) -> None:
    spec = job(*lines)
    assert [reads_trained_texts(spec, plan.expert) for plan in expert_plans(spec)] == found
