"""What an objective makes of a schedule, and each objective that cannot be is refused by name."""

import diffusers
import pytest

from diptych.diffusion.schedule import EdmSchedule, NoiseSchedule
from diptych.training.objective_rules import (
    biased_timesteps,
    objective_violations,
    scheduler_config_changes,
    trained_schedule,
)
from diptych.training.spec import ObjectiveSpec, TimestepBiasSpec

SDXL = NoiseSchedule()
ZERO_SNR_V = NoiseSchedule(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)
TO_ZERO_SNR_V = ObjectiveSpec(prediction_type="v_prediction", zero_snr=True)
ALL = (range(1000),)


def refused(
    spec: ObjectiveSpec,
    schedule: NoiseSchedule | None = SDXL,
    ranges: tuple[range, ...] = ALL,
) -> list[str]:
    return [one.field for one in objective_violations(spec, ranges, schedule)]


def test_a_plain_objective_keeps_the_checkpoints_schedule() -> None:
    assert trained_schedule(SDXL, ObjectiveSpec()) == SDXL
    assert trained_schedule(ZERO_SNR_V, ObjectiveSpec()) == ZERO_SNR_V


def test_turning_zero_snr_on_brings_trailing_spacing() -> None:
    assert trained_schedule(SDXL, TO_ZERO_SNR_V) == ZERO_SNR_V


def test_another_prediction_alone_keeps_the_spacing() -> None:
    after = trained_schedule(SDXL, ObjectiveSpec(prediction_type="sample"))
    assert (after.prediction_type, after.timestep_spacing) == ("sample", "leading")


def test_changes_are_none_where_training_changes_nothing() -> None:
    assert scheduler_config_changes(SDXL, SDXL) == {}


def test_changes_make_diffusers_own_scheduler_the_trained_one() -> None:
    changes = scheduler_config_changes(SDXL, trained_schedule(SDXL, TO_ZERO_SNR_V))
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.DDIMScheduler.from_config(config | changes)
    scheduler.set_timesteps(20)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.timesteps[0] == 999
    assert scheduler.alphas_cumprod[999] == 0.0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", []),
        ("earlier", [350, 351]),
        ("later", [358, 359]),
        ("range", [352, 353, 354]),
    ],
)
def test_bias_means_the_stages_own_range(kind: str, expected: list[int]) -> None:
    bias = TimestepBiasSpec(kind=kind, portion=0.2, begin=352, end=355)  # type: ignore[arg-type]
    assert list(biased_timesteps(bias, range(350, 360))) == expected


@pytest.mark.parametrize(
    "spec",
    [
        ObjectiveSpec(),
        TO_ZERO_SNR_V,
        ObjectiveSpec(prediction_type="sample", zero_snr=True, min_snr_gamma=5.0),
        ObjectiveSpec(loss="huber", huber_c=0.2, huber_schedule="constant"),
        ObjectiveSpec(noise_offset=0.1, noise_offset_probability=0.25),
        ObjectiveSpec(timestep_bias=TimestepBiasSpec(kind="later", multiplier=2.0, portion=0.5)),
    ],
)
def test_accepts_what_can_be_trained(spec: ObjectiveSpec) -> None:
    assert refused(spec) == []


def test_refuses_eps_without_signal() -> None:
    assert refused(ObjectiveSpec(zero_snr=True)) == ["objective.zero_snr"]
    both = ObjectiveSpec(prediction_type="epsilon", zero_snr=True)
    assert refused(both, schedule=None) == ["objective.zero_snr"]
    eps = ObjectiveSpec(prediction_type="epsilon")
    assert refused(eps, schedule=ZERO_SNR_V) == ["objective.prediction_type"]


def test_without_the_checkpoint_only_what_is_said_is_judged() -> None:
    assert refused(ObjectiveSpec(zero_snr=True), schedule=None) == []


def test_refuses_a_continuous_schedule() -> None:
    edm = NoiseSchedule(edm=EdmSchedule())
    assert refused(ObjectiveSpec(), schedule=edm) == ["objective.prediction_type"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (ObjectiveSpec(huber_c=0.2), "huber_c"),
        (ObjectiveSpec(huber_schedule="constant"), "huber_schedule"),
        (ObjectiveSpec(noise_offset_probability=0.5), "noise_offset_probability"),
        (ObjectiveSpec(timestep_bias=TimestepBiasSpec(multiplier=2.0)), "timestep_bias.multiplier"),
        (ObjectiveSpec(timestep_bias=TimestepBiasSpec(portion=0.5)), "timestep_bias.portion"),
        (
            ObjectiveSpec(timestep_bias=TimestepBiasSpec(kind="later", multiplier=2.0, begin=9)),
            "timestep_bias.begin",
        ),
        (
            ObjectiveSpec(timestep_bias=TimestepBiasSpec(kind="range", multiplier=2, portion=0.5)),
            "timestep_bias.portion",
        ),
        (
            ObjectiveSpec(timestep_bias=TimestepBiasSpec(kind="earlier")),
            "timestep_bias.multiplier",
        ),
    ],
)
def test_refuses_an_option_that_would_be_ignored(spec: ObjectiveSpec, field: str) -> None:
    assert refused(spec) == [f"objective.{field}"]


def test_refuses_a_bias_that_meets_no_trained_timestep() -> None:
    bias = TimestepBiasSpec(kind="range", multiplier=2.0, begin=100, end=200)
    spec = ObjectiveSpec(timestep_bias=bias)
    assert refused(spec, ranges=(range(350, 1000),)) == ["objective.timestep_bias.begin"]
    assert refused(spec, ranges=(range(350, 1000), range(350))) == []


def test_names_everything_wrong_at_once() -> None:
    spec = ObjectiveSpec(zero_snr=True, huber_c=0.5, timestep_bias=TimestepBiasSpec(kind="later"))
    assert len(refused(spec)) == 3
