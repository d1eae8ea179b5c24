"""Rules between the sections of a job, and between a job, its models and its images.

A setting that nothing would heed is an error too, since whoever wrote it expects that it counts.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, Final

from diptych.adapters.naming import check_name, split_reference
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.plan import Plan
from diptych.errors import FieldViolation, InvalidRequest, JobInvalid
from diptych.training.experts import ExpertPlan, expert_plans, expert_sources
from diptych.training.model_facts import JobFacts, read_facts
from diptych.training.spec import (
    AdapterSpec,
    JobSpec,
    LrScheduleSpec,
    ObjectiveSpec,
    TextEncoderSpec,
    TimestepBiasSpec,
)

__all__ = ["Remark", "check", "check_images", "check_with_models", "remarks"]

Found = Iterator[tuple[str, str]]
"""Fields and what is wrong with them."""

DEFAULT_TRAIN_TIMESTEPS: Final = 1000
PRODIGY_RATE: Final = 0.1
"""Below it Prodigy's own estimate of a learning rate is scaled to next to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """What a job may do and its user should know; becomes an event ``warning``."""

    reason: str
    """Stable, UPPER_SNAKE."""
    message: str


def check(spec: JobSpec, facts: JobFacts | None = None) -> None:
    """Check a job's sections against each other, and against its models where they are known.

    Raises:
        JobInvalid: With everything that is wrong.
    """
    _refuse(_wrong(spec, facts or {}))


def check_with_models(spec: JobSpec, *, models_dir: Path, places: Places = EVERYWHERE) -> JobFacts:
    """Check all that can be checked of a job before it starts, and return its models' facts.

    Args:
        spec: The job.
        models_dir: Where models from elsewhere are kept; nothing is fetched.
        places: Where models may be read from.

    Raises:
        JobInvalid: With everything that is wrong, models that are not there included.
    """
    facts, violations = read_facts(spec, models_dir=models_dir, places=places)
    _refuse([*((one.field, one.description) for one in violations), *_wrong(spec, facts)])
    return facts


def _wrong(spec: JobSpec, facts: JobFacts) -> list[tuple[str, str]]:
    plans, found = _plans(spec, facts)
    rules = (_stage, _adapter, _text, _objective, _bias_fields, _lengths, _devices, _datasets)
    found += chain.from_iterable(rule(spec) for rule in rules)
    if plans:
        found += _bias_range(spec, plans)
    found += _models(spec, facts)
    return found


def check_images(spec: JobSpec, plans: Mapping[str, Plan]) -> None:
    """Check a job against the plans of its datasets.

    Raises:
        JobInvalid: A dataset that is trained on has no image that can be used.
    """
    _refuse(
        (f"dataset.datasets[{number}]", "has no image that can be used")
        for number, dataset in enumerate(spec.dataset.datasets)
        if dataset.kind != "eval" and dataset.id in plans and not len(plans[dataset.id])
    )


def remarks(
    spec: JobSpec, facts: JobFacts | None = None, plans: Mapping[str, Plan] | None = None
) -> list[Remark]:
    """Return what the user of a job that is right should still know.

    Args:
        spec: The job.
        facts: Of its models, where they are known.
        plans: Of its datasets, where they are known.
    """
    told = [*_image_remarks(spec, plans or {}), *_run_remarks(spec)]
    for expert, model in (facts or {}).items():
        if spec.text_encoders.method != "none" and len(model.text_encoders) == 1:
            message = f"{expert}: {model.family.name} has no text encoder but {{}}; it is trained"
            message = message.format(model.text_encoders[0])
            told.append(Remark(reason="ONE_TEXT_ENCODER", message=message))
    return told


def _image_remarks(spec: JobSpec, plans: Mapping[str, Plan]) -> Iterator[Remark]:
    trained = {name: plan for name, plan in plans.items() if plan.spec.kind == "train"}
    if trained and sum(map(len, trained.values())) == 1:
        yield Remark(
            reason="ONE_IMAGE",
            message="there is one image to train on; the result will know little else",
        )
    for name, plan in trained.items():
        for bucket in plan.buckets:
            seen = len(bucket.rows) * plan.spec.sampling.repeats
            if seen < plan.batch_size:
                size = f"{bucket.width}x{bucket.height}"
                message = (
                    f"{name}: bucket {size} shows {seen} images an epoch and a batch has "
                    f"{plan.batch_size}, so that it holds images more than once"
                )
                yield Remark(reason="BATCH_EXCEEDS_BUCKET", message=message)


def _run_remarks(spec: JobSpec) -> Iterator[Remark]:
    if spec.optimizer.name == "prodigy" and spec.optimizer.learning_rate < PRODIGY_RATE:
        message = (
            f"learning_rate {spec.optimizer.learning_rate:g} multiplies what Prodigy estimates "
            "by itself; 1 is usual"
        )
        yield Remark(reason="PRODIGY_RATE_LOW", message=message)
    run = spec.run
    if run.num_steps is not None and spec.checkpoints.every_steps > run.num_steps:
        message = (
            f"checkpoints come every {spec.checkpoints.every_steps} steps and the job has "
            f"{run.num_steps}: there is none before its end, from which it could resume"
        )
        yield Remark(reason="NO_CHECKPOINT", message=message)


def _refuse(found: Any) -> None:  # noqa: ANN401 - any iterable of pairs
    violations = [FieldViolation(field=field, description=text) for field, text in found]
    if violations:
        raise JobInvalid(violations)


def _plans(spec: JobSpec, facts: JobFacts) -> tuple[Sequence[ExpertPlan], list[tuple[str, str]]]:
    """Return a job's experts, or none and what is wrong with its boundary."""
    if spec.stage == "single":
        wrong = [("boundary", "belongs to two experts, and stage is single")]
        return expert_plans(spec), [] if spec.boundary is None else wrong
    if spec.boundary is None:
        return (), [("boundary", f"is missing, and stage is {spec.stage}")]
    lengths = [model.schedule.num_train_timesteps for model in facts.values()]
    try:
        length = max(lengths, default=DEFAULT_TRAIN_TIMESTEPS)
        return expert_plans(spec, num_train_timesteps=length), []
    except InvalidRequest as error:
        return (), [(one.field, one.description) for one in error.violations]


def _stage(spec: JobSpec) -> Found:
    yield from _named("name", check_name, spec.name)
    if spec.model.refiner is not None and spec.stage != "both":
        yield "model.refiner", f"belongs to stage both, and stage is {spec.stage}"


def _named(field: str, check_one: Callable[[str], object], text: str) -> Found:
    try:
        check_one(text)
    except InvalidRequest as error:
        yield field, error.violations[0].description


def _adapter(spec: JobSpec) -> Found:
    adapter = spec.adapter
    if spec.method == "full":
        yield from _unheeded("adapter", adapter, AdapterSpec(), "method is full")
        return
    if adapter.start_from is not None:
        yield from _named("adapter.start_from", split_reference, adapter.start_from)
        if spec.stage == "both":
            yield "adapter.start_from", "goes on with one expert, and stage is both"
        own = ("start_from", "dropout")
        why = "start_from brings its own"
        yield from _unheeded("adapter", adapter, AdapterSpec(), why, but=own)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(adapter, field):
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"adapter.{field}", f"{pattern!r:.80} is no regular expression: {error}"


def _text(spec: JobSpec) -> Found:
    text = spec.text_encoders
    if text.method == "none":
        yield from _unheeded("text_encoders", text, TextEncoderSpec(), "method is none")
        return
    if spec.stage == "both":
        yield "text_encoders.method", "two experts read one text, so that stage both trains none"
    if text.method == "full":
        rank = ("method", "learning_rate", "weight_decay")
        yield from _unheeded("text_encoders", text, TextEncoderSpec(), "method is full", but=rank)
        if spec.method != "full":
            yield "text_encoders.method", f"is full; an adapter of {spec.method} cannot hold it"


def _objective(spec: JobSpec) -> Found:
    own = spec.objective
    if own.zero_snr and own.prediction_type == "epsilon":
        yield "objective.zero_snr", _ZERO_SNR
    if own.loss == "l2":
        for field in ("huber_c", "huber_schedule"):
            if getattr(own, field) != getattr(ObjectiveSpec(), field):
                yield f"objective.{field}", "belongs to huber and smooth_l1, and loss is l2"
    if own.noise_offset == 0 and own.noise_offset_probability != 1:
        yield "objective.noise_offset_probability", "there is no noise_offset"
    kinds = {one.kind for one in spec.dataset.datasets if not one.disabled}
    if own.regularisation_weight != 1 and "regularisation" not in kinds:
        yield "objective.regularisation_weight", "there is no dataset of kind regularisation"


_ZERO_SNR: Final = (
    "where a schedule ends in pure noise, epsilon tells nothing of the picture (Lin et al. 2023); "
    "prediction_type v_prediction or sample can be trained"
)


def _bias_fields(spec: JobSpec) -> Found:
    bias, at = spec.objective.timestep_bias, "objective.timestep_bias"
    used = {
        "none": (),
        "earlier": ("multiplier", "portion"),
        "later": ("multiplier", "portion"),
        "range": ("multiplier", "begin", "end"),
    }[bias.kind]
    why = f"kind is {bias.kind}"
    yield from _unheeded(at, bias, TimestepBiasSpec(), why, but=("kind", *used))


def _bias_range(spec: JobSpec, plans: Sequence[ExpertPlan]) -> Found:
    bias, at = spec.objective.timestep_bias, "objective.timestep_bias"
    if bias.kind != "range":
        return
    first = min(plan.first_timestep for plan in plans)
    last = max(plan.last_timestep for plan in plans)
    if bias.begin >= bias.end:
        yield f"{at}.end", f"{bias.end} is not above begin {bias.begin}"
    elif bias.begin < first or bias.end > last + 1:
        said = f"{bias.begin} to {bias.end - 1}"
        yield f"{at}.begin", f"{said} is not within {first} to {last}, which the stage trains"


def _lengths(spec: JobSpec) -> Found:
    schedule, run = spec.lr_schedule, spec.run
    own = LrScheduleSpec()
    users = {
        "num_warmup_steps": schedule.name != "constant",
        "num_cycles": schedule.name in {"cosine", "cosine_with_restarts"},
        "power": schedule.name == "polynomial",
    }
    for field, is_used in users.items():
        if not is_used and getattr(schedule, field) != getattr(own, field):
            yield f"lr_schedule.{field}", f"{schedule.name} does not use it"
    if run.num_steps is not None and 0 < run.num_steps <= schedule.num_warmup_steps:
        warmup = schedule.num_warmup_steps
        yield "lr_schedule.num_warmup_steps", f"{warmup} is not below num_steps {run.num_steps}"


def _devices(spec: JobSpec) -> Found:
    run = spec.run
    if run.side_by_side:
        if spec.stage != "both":
            yield "run.side_by_side", f"two experts train side by side, and stage is {spec.stage}"
        if run.num_devices % 2:
            problem = f"{run.num_devices} devices do not fall into two halves"
            yield "run.num_devices", f"{problem}, and side_by_side is true"
        if run.num_nodes > 1:
            yield "run.num_nodes", "side_by_side is of one node"
    num_each = run.num_devices // 2 if run.side_by_side else run.num_devices
    if run.sharding == "fsdp2" and num_each * run.num_nodes < 2:
        yield "run.sharding", "fsdp2 shards over devices, and an expert has one"


def _datasets(spec: JobSpec) -> Found:
    kinds = [one.kind for one in spec.dataset.datasets if not one.disabled]
    if "train" not in kinds:
        yield "dataset.datasets", "none of kind train is enabled"
    if spec.method == "full" and "regularisation" in kinds:
        problem = (
            "regularisation needs the model before training, which method full keeps no copy of"
        )
        yield "dataset.datasets", problem


def _models(spec: JobSpec, facts: JobFacts) -> Found:
    own = spec.objective
    for expert, model in facts.items():
        field = "model.refiner" if expert == "refiner" and spec.model.refiner else "model.source"
        if model.schedule.edm is not None:
            yield field, f"{model.family.name} has an EDM schedule, which is not trained yet"
            continue
        prediction = own.prediction_type or model.schedule.prediction_type
        has_zero = model.schedule.rescale_betas_zero_snr if own.zero_snr is None else own.zero_snr
        is_said = own.zero_snr and own.prediction_type
        if has_zero and prediction == "epsilon" and not is_said:
            at = "zero_snr" if own.zero_snr else "prediction_type"
            yield f"objective.{at}", f"{expert}: {_ZERO_SNR}"
    yield from _mismatches(spec, facts)


def _mismatches(spec: JobSpec, facts: JobFacts) -> Found:
    """Tell what two experts of one job must share to hand latents over."""
    if len(facts) < len(expert_sources(spec)) or spec.stage != "both" or not spec.model.refiner:
        return
    base, refiner = (facts[name] for name in ("base", "refiner"))
    for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"):
        one, other = getattr(base.schedule, name), getattr(refiner.schedule, name)
        if one != other:
            yield "model.refiner", f"has {name} {other}, and the base {one}"
    if base.family.latent_channels != refiner.family.latent_channels:
        yield "model.refiner", "has other latents than the base"


def _unheeded(
    at: str,
    given: Any,  # noqa: ANN401 - any section
    default: Any,  # noqa: ANN401
    why: str,
    *,
    but: Sequence[str] = (),
) -> Found:
    """Tell the fields of a section that say something where nothing would heed them."""
    for one in fields(given):
        if one.name not in but and getattr(given, one.name) != getattr(default, one.name):
            yield f"{at}.{one.name}", f"says nothing here: {why}"
