"""A job's values: defaults that can be run, ranges, and rules within one section."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from diptych.training.rules import check
from diptych.training.spec import JobSpec, OptimizerSpec, ProdigySpec, RunSpec
from support.job_texts import job


def test_what_is_left_out_has_defaults_that_can_be_run() -> None:
    check(job())


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="unexpected_keyword_argument"):
        TypeAdapter(RunSpec).validate_python({"num_steps": 1, "bach_size": 2})


@pytest.mark.parametrize("length", [{}, {"num_steps": 1, "num_epochs": 1}])
def test_the_length_is_said_exactly_once(length: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        RunSpec(**length)


def test_prodigys_options_belong_to_prodigy() -> None:
    with pytest.raises(ValueError, match="the optimizer is lion"):
        OptimizerSpec(name="lion", prodigy=ProdigySpec())


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("adapter", "rank", 0),
        ("adapter", "rank", 129),
        ("adapter", "alpha", 0.0),
        ("optimizer", "learning_rate", math.nan),
        ("optimizer", "learning_rate", math.inf),
        ("optimizer", "learning_rate", -1e-4),
        ("run", "max_grad_norm", math.nan),
        ("objective", "min_snr_gamma", 0.0),
        ("checkpoints", "keep", 0),
    ],
)
def test_values_out_of_range_are_refused(section: str, field: str, value: float) -> None:
    whole = TypeAdapter(JobSpec).dump_python(job())
    whole[section][field] = value
    with pytest.raises(ValidationError, match=rf"{section}\.{field}"):
        TypeAdapter(JobSpec).validate_python(whole)


@pytest.mark.parametrize("boundary", [0.0, 1.0, math.nan, -0.1])
def test_a_boundary_lies_between_0_and_1(boundary: float) -> None:
    whole = TypeAdapter(JobSpec).dump_python(job("stage: both", "boundary: 0.5"))
    with pytest.raises(ValidationError, match="boundary"):
        TypeAdapter(JobSpec).validate_python(whole | {"boundary": boundary})
