"""Every combination that has no meaning, and every option without effect, is refused by name."""

import pytest

from diptych.training.optimizer_rules import (
    learning_rate_of,
    lr_schedule_violations,
    optimizer_violations,
)
from diptych.training.spec import LrScheduleSpec, OptimizerName, OptimizerSpec

NAMES: tuple[OptimizerName, ...] = (
    "adamw",
    "adamw_8bit",
    "adafactor",
    "lion",
    "prodigy",
    "schedule_free_adamw",
    "stable_adamw",
)


def refused(
    spec: OptimizerSpec,
    lr_schedule: LrScheduleSpec | None = None,
    lrs: dict[str, float | None] | None = None,
    *,
    has_ema: bool = False,
) -> list[str]:
    schedule = LrScheduleSpec() if lr_schedule is None else lr_schedule
    found = optimizer_violations(spec, schedule, {} if lrs is None else lrs, has_ema=has_ema)
    return [one.field for one in found]


def schedule_refused(spec: LrScheduleSpec, num_steps: int | None = None) -> list[str]:
    return [one.field for one in lr_schedule_violations(spec, num_steps)]


@pytest.mark.parametrize("name", NAMES)
def test_accepts_every_optimizer_with_its_own_defaults(name: OptimizerName) -> None:
    assert refused(OptimizerSpec(name=name), lrs={"text_encoders.learning_rate": None}) == []


def test_prodigy_finds_its_steps_size_itself() -> None:
    assert learning_rate_of(OptimizerSpec(name="prodigy")) == 1.0
    assert learning_rate_of(OptimizerSpec(name="lion")) == 1e-4
    assert learning_rate_of(OptimizerSpec(name="prodigy", learning_rate=0.5)) == 0.5


def test_a_groups_own_learning_rate_comes_first() -> None:
    assert learning_rate_of(OptimizerSpec(learning_rate=1e-3), 5e-6) == 5e-6


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (OptimizerSpec(name="adafactor", betas=(0.9, 0.99)), "optimizer.betas"),
        (OptimizerSpec(name="adafactor", eps=1e-8), "optimizer.eps"),
        (OptimizerSpec(name="lion", eps=1e-8), "optimizer.eps"),
        (OptimizerSpec(name="schedule_free_adamw", betas=(0.0, 0.99)), "optimizer.betas"),
    ],
)
def test_refuses_an_option_that_the_optimizer_does_not_have(
    spec: OptimizerSpec, field: str
) -> None:
    assert refused(spec) == [field]


def test_refuses_unlike_learning_rates_with_prodigy() -> None:
    lrs = {"text_encoders.learning_rate": 5e-6, "unet": None}
    assert refused(OptimizerSpec(name="prodigy"), lrs=lrs) == ["text_encoders.learning_rate"]
    assert refused(OptimizerSpec(name="adamw"), lrs=lrs) == []
    assert refused(OptimizerSpec(name="prodigy"), lrs={"text_encoders.learning_rate": 1.0}) == []


def test_a_schedule_free_optimizer_takes_no_other_schedule() -> None:
    spec = OptimizerSpec(name="schedule_free_adamw")
    assert refused(spec, LrScheduleSpec(name="cosine")) == ["lr_schedule.name"]
    warm = LrScheduleSpec(name="constant_with_warmup", num_warmup_steps=10)
    assert refused(spec, warm) == []


def test_a_schedule_free_optimizer_takes_no_second_average() -> None:
    assert refused(OptimizerSpec(name="schedule_free_adamw"), has_ema=True) == ["run.ema"]
    assert refused(OptimizerSpec(name="adamw"), has_ema=True) == []


def test_a_polynomial_cannot_fall_to_where_it_begins() -> None:
    spec, schedule = OptimizerSpec(learning_rate=1e-7), LrScheduleSpec(name="polynomial")
    assert refused(spec, schedule) == ["optimizer.learning_rate"]
    assert refused(spec, LrScheduleSpec(name="linear")) == []


def test_names_everything_wrong_at_once() -> None:
    spec = OptimizerSpec(name="adafactor", betas=(0.9, 0.9), eps=1e-8, learning_rate=1e-8)
    assert len(refused(spec, LrScheduleSpec(name="polynomial"))) == 3


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (LrScheduleSpec(name="constant", num_warmup_steps=5), ["num_warmup_steps"]),
        (LrScheduleSpec(name="cosine", num_cycles=2.0), ["num_cycles"]),
        (LrScheduleSpec(name="cosine", power=2.0), ["power"]),
        (LrScheduleSpec(name="polynomial", num_cycles=2.0, power=2.0), ["num_cycles"]),
        (LrScheduleSpec(name="cosine_with_restarts", num_cycles=2.0), []),
        (LrScheduleSpec(name="linear", num_warmup_steps=5), []),
    ],
)
def test_refuses_options_that_a_schedule_does_not_have(
    spec: LrScheduleSpec, fields: list[str]
) -> None:
    assert schedule_refused(spec) == [f"lr_schedule.{name}" for name in fields]


def test_refuses_a_warm_up_that_outlasts_the_training() -> None:
    spec = LrScheduleSpec(name="linear", num_warmup_steps=100)
    assert schedule_refused(spec, 100) == ["lr_schedule.num_warmup_steps"]
    assert schedule_refused(spec, 101) == []
