"""A job's values: defaults that can be run, ranges, and rules within one section."""

import math
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from diptych.training.rules import check
from diptych.training.spec import EmaSpec, JobSpec, OptimizerSpec, ProdigySpec, RunSpec
from support.job_texts import job


def test_what_is_left_out_has_defaults_that_can_be_run() -> None:
    check(job())


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="unexpected_keyword_argument"):
        TypeAdapter(RunSpec).validate_python({"num_steps": 1, "bach_size": 2})


@pytest.mark.parametrize("length", [{}, {"num_steps": 1, "num_epochs": 1}])
def test_the_length_is_said_exactly_once(length: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        RunSpec(**length)  # type: ignore[arg-type]


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


EDGES = [
    ("run.num_steps", (1, 10**7), (0, 10**7 + 1, 10**18)),
    ("checkpoints.every_steps", (1, 10**7), (0, 10**18)),
    ("lr_schedule.num_warmup_steps", (0, 10**7), (-1, 10**18)),
    ("lr_schedule.power", (1e-3, 100.0), (0.0, 101.0)),
    ("optimizer.learning_rate", (1e-12, 100.0), (0.0, 1e-13, 100.1, 1e308)),
    ("optimizer.eps", (1e-30, 1.0), (0.0, 1e-31, 1.1)),
    ("optimizer.weight_decay", (0.0, 100.0), (-1e-9, 101.0, 1e308)),
    ("text_encoders.learning_rate", (1e-12, 100.0), (1e308,)),
    ("text_encoders.weight_decay", (0.0, 100.0), (1e308,)),
    ("text_encoders.alpha", (1e-3, 1e5), (1e-4, 1e308)),
    ("adapter.alpha", (1e-3, 1e5), (0.0, 1e-4, 1e6)),
    ("objective.huber_c", (1e-6, 1e6), (0.0, 1e-7, 1e7)),
    ("objective.min_snr_gamma", (1e-6, 1e6), (0.0, 1e308)),
    ("objective.noise_offset", (0.0, 10.0), (-0.1, 11.0)),
    ("objective.regularisation_weight", (0.0, 1000.0), (-0.1, 1001.0)),
    ("objective.timestep_bias.multiplier", (1e-6, 1e6), (0.0, 1e308)),
    ("run.max_grad_norm", (0.0, 1e6), (-1.0, 1e308)),
]


def changed(field: str, value: float) -> dict[str, object]:
    """Return a job's plain values with another one at ``field``."""
    whole = TypeAdapter(JobSpec).dump_python(job())
    *sections, name = field.split(".")
    held = whole
    for section in sections:
        held = held[section]
    assert name in held
    held[name] = value
    return dict(whole)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, held, _ in EDGES for value in held]
)
def test_the_ends_of_a_range_belong_to_it(field: str, value: float) -> None:
    TypeAdapter(JobSpec).validate_python(changed(field, value))


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, _, refused in EDGES for value in refused]
)
def test_numbers_that_train_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"{field}\n"):
        TypeAdapter(JobSpec).validate_python(changed(field, value))


def test_prodigys_first_estimate_and_its_factor_have_limits() -> None:
    for bad in ({"d0": 1e-13}, {"d0": 2.0}, {"d_coef": 1e7}, {"growth_rate": 0.5}):
        with pytest.raises(ValidationError):
            TypeAdapter(ProdigySpec).validate_python(bad)


@pytest.mark.parametrize("boundary", [0.0, 1.0, math.nan, -0.1])
def test_a_boundary_lies_between_0_and_1(boundary: float) -> None:
    whole = TypeAdapter(JobSpec).dump_python(job("stage: both", "boundary: 0.5"))
    with pytest.raises(ValidationError, match="boundary"):
        TypeAdapter(JobSpec).validate_python(whole | {"boundary": boundary})


def documented() -> dict[str, str]:
    """Return the default of each field as docs/training.md says it."""
    lines = (Path(__file__).parents[2] / "docs" / "training.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| `")]
    return {row[1].strip(" `"): row[2].strip() for row in rows if len(row) > 4}


def defaults(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field below ``kind`` with its default in words."""
    for one in fields(kind):
        value = one.default
        if one.default_factory is not MISSING:
            value = one.default_factory()
        name = f"{prefix}{one.name}"
        section = SECTIONS.get(name, type(value))
        yield name, said(value)
        if is_dataclass(section):
            yield from defaults(section, f"{name}.")


SECTIONS = {"run": RunSpec, "run.ema": EmaSpec, "optimizer.prodigy": ProdigySpec}


def said(value: object) -> str:
    if value is MISSING:
        return "needed"
    if is_dataclass(value):
        return ""
    if value in ((), {}):
        return "empty"
    if value is None or value == math.inf:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def test_the_documentation_names_every_field_and_its_default() -> None:
    assert documented() == dict(defaults(JobSpec))
