"""What an objective makes of a checkpoint's schedule, and which objectives cannot be."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from diptych.diffusion.schedule import NoiseSchedule
from diptych.errors import FieldViolation
from diptych.training.spec import ObjectiveSpec, TimestepBiasSpec

__all__ = [
    "biased_timesteps",
    "objective_violations",
    "scheduler_config_changes",
    "trained_schedule",
]

_BIAS_OPTIONS = {
    "none": frozenset({"kind"}),
    "earlier": frozenset({"kind", "multiplier", "portion"}),
    "later": frozenset({"kind", "multiplier", "portion"}),
    "range": frozenset({"kind", "multiplier", "begin", "end"}),
}
"""The options that each kind of bias has."""
_WRITTEN = ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing")


def trained_schedule(schedule: NoiseSchedule, spec: ObjectiveSpec) -> NoiseSchedule:
    """Return the schedule that a model has once it is trained as ``spec`` says.

    Turning zero terminal SNR on brings trailing spacing with it: only then does sampling begin at
    the timestep without signal (Lin et al. 2023, section 3.3).
    """
    prediction_type = spec.prediction_type or schedule.prediction_type
    was_zero = schedule.rescale_betas_zero_snr
    is_zero = was_zero if spec.zero_snr is None else spec.zero_snr
    spacing = "trailing" if is_zero and not was_zero else schedule.timestep_spacing
    return replace(
        schedule,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=is_zero,
        timestep_spacing=spacing,
    )


def scheduler_config_changes(before: NoiseSchedule, after: NoiseSchedule) -> dict[str, object]:
    """Return the entries of ``scheduler_config.json`` that training changed, as diffusers has them.

    Args:
        before: The checkpoint's.
        after: What ``trained_schedule`` made of it.
    """
    return {
        name: getattr(after, name)
        for name in _WRITTEN
        if getattr(after, name) != getattr(before, name)
    }


def biased_timesteps(bias: TimestepBiasSpec, timesteps: range) -> range:
    """Return the timesteps that come more often; those outside the stage's have no effect."""
    if bias.kind == "range":
        return range(bias.begin, bias.end)
    num = max(1, round(bias.portion * len(timesteps)))
    if bias.kind == "later":
        return timesteps[-num:]
    return timesteps[:num] if bias.kind == "earlier" else range(0)


def objective_violations(
    spec: ObjectiveSpec, ranges: Sequence[range], schedule: NoiseSchedule | None = None
) -> list[FieldViolation]:
    """Return everything that is wrong with an objective; none when it can be trained.

    Args:
        spec: The objective.
        ranges: Each trained expert's timesteps.
        schedule: The checkpoint's; None where it is not known, which checks less.
    """
    found = [
        *_schedule_violations(spec, schedule),
        *_unused_options(spec),
        *_bias_violations(spec.timestep_bias, ranges),
    ]
    return [FieldViolation(field=f"objective.{name}", description=said) for name, said in found]


def _schedule_violations(
    spec: ObjectiveSpec, schedule: NoiseSchedule | None
) -> Iterator[tuple[str, str]]:
    if schedule is not None and schedule.edm is not None:
        yield "prediction_type", "the model has a continuous (EDM) schedule, which is not trained"
        return
    own = NoiseSchedule(prediction_type="") if schedule is None else schedule
    after = trained_schedule(own, spec)
    if after.rescale_betas_zero_snr and after.prediction_type == "epsilon":
        yield (
            "zero_snr" if spec.zero_snr else "prediction_type",
            "without signal eps is the input itself: zero SNR needs v_prediction or sample",
        )


def _unused_options(spec: ObjectiveSpec) -> Iterator[tuple[str, str]]:
    plain = ObjectiveSpec()
    if spec.loss == "l2":
        for name in ("huber_c", "huber_schedule"):
            if getattr(spec, name) != getattr(plain, name):
                yield name, "the loss l2 has no such option; huber and smooth_l1 have"
    if spec.noise_offset == 0.0 and spec.noise_offset_probability != plain.noise_offset_probability:
        yield "noise_offset_probability", "is given, and noise_offset is 0"


def _bias_violations(bias: TimestepBiasSpec, ranges: Sequence[range]) -> Iterator[tuple[str, str]]:
    plain = TimestepBiasSpec()
    for name in (one.name for one in fields(bias)):
        given = getattr(bias, name) != getattr(plain, name)
        if given and name not in _BIAS_OPTIONS[bias.kind]:
            yield f"timestep_bias.{name}", f"the kind {bias.kind} has no such option"
    if bias.kind != "none" and bias.multiplier == plain.multiplier:
        yield "timestep_bias.multiplier", "is 1, with which the bias does nothing"
    if bias.kind == "range" and not any(
        max(bias.begin, one.start) < min(bias.end, one.stop) for one in ranges
    ):
        trained = ", ".join(f"{one.start}..{one.stop - 1}" for one in ranges)
        yield (
            "timestep_bias.begin",
            f"{bias.begin}..{bias.end - 1} holds none of the trained timesteps, {trained}",
        )
