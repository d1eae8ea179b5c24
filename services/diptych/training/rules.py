"""Rules between the sections of a job, and between a job, its models and its images.

A setting that nothing would heed is an error too, since whoever wrote it expects that it counts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from diptych.adapters.naming import split_reference
from diptych.datasets.findings import Finding
from diptych.datasets.places import EVERYWHERE, Places
from diptych.datasets.plan import Plan
from diptych.errors import FieldViolation, InvalidRequest, JobInvalid
from diptych.training.experts import ExpertPlan, expert_plans, expert_sources, reads_trained_texts
from diptych.training.model_facts import FindExpert, JobFacts, read_facts
from diptych.training.objective_rules import objective_violations
from diptych.training.optimizer_rules import (
    learning_rate_of,
    lr_schedule_violations,
    optimizer_violations,
)
from diptych.training.spec import JobSpec, TextEncoderSpec
from diptych.training.targets import (
    PATTERN_S,
    pattern_problem,
    slow_pattern,
    target_modules,
)
from diptych.training.trainable_rules import trainable_violations

if TYPE_CHECKING:
    from diptych.diffusion.schedule import NoiseSchedule

__all__ = ["Remark", "check", "check_images", "check_with_models", "left_out", "remarks"]

Found = Iterator[tuple[str, str]]
"""Fields and what is wrong with them."""

DEFAULT_TRAIN_TIMESTEPS: Final = 1000
PRODIGY_RATE: Final = 0.1
"""Below it Prodigy's own estimate of a learning rate is scaled to next to nothing."""
_FULL: Final = ("learning_rate", "weight_decay")
"""What full text encoders have of an adapter's settings."""


_NO_IMAGES: Final = frozenset({"name_hidden", "name_not_picture"})
"""Reasons of files that nobody takes for images."""
MAX_SHOWN: Final = 8


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


def check_with_models(
    spec: JobSpec,
    *,
    models_dir: Path,
    places: Places = EVERYWHERE,
    find_expert: FindExpert | None = None,
) -> JobFacts:
    """Check all that can be checked of a job before it starts, and return its models' facts.

    Args:
        spec: The job.
        models_dir: Where models from elsewhere are kept; nothing is fetched.
        places: Where models may be read from.
        find_expert: Looks up what jobs exported; None leaves that to the worker.

    Raises:
        JobInvalid: With everything that is wrong, models that are not there included.
    """
    facts, violations = read_facts(
        spec, models_dir=models_dir, places=places, find_expert=find_expert
    )
    _refuse([*violations, *_wrong(spec, facts)])
    return facts


def _wrong(spec: JobSpec, facts: JobFacts) -> list[FieldViolation]:
    plans, found = _plans(spec, facts)
    found += trainable_violations(spec)
    found += _objective(spec, facts, plans)
    found += optimizer_violations(
        spec.optimizer,
        spec.lr_schedule,
        {"text_encoders.learning_rate": spec.text_encoders.learning_rate},
        has_ema=spec.run.ema is not None,
    )
    found += lr_schedule_violations(spec.lr_schedule, spec.run.num_steps)
    own = chain(_stage(spec), _adapter(spec), _text(spec), _devices(spec), _datasets(spec))
    told = (*own, *_patterns(spec, facts), *_mismatches(spec, facts))
    return found + [FieldViolation(field=at, description=text) for at, text in told]


def check_images(
    spec: JobSpec, plans: Mapping[str, Plan], findings: Iterable[Finding] = ()
) -> None:
    """Check a job against the plans of its datasets; ``findings`` say what became of the images.

    Raises:
        JobInvalid: A dataset that is trained on has no image that can be used.
    """
    told = [*findings]
    why = {
        dataset: "; ".join(one.message for one in left_out(f for f in told if f.dataset == dataset))
        for dataset in plans
    }
    _refuse(
        [
            FieldViolation(
                field=f"dataset.datasets[{number}]",
                description=": ".join(
                    filter(None, (f"{dataset.id} has no image that can be used", why[dataset.id]))
                ),
            )
            for number, dataset in enumerate(spec.dataset.datasets)
            if dataset.kind != "eval" and dataset.id in plans and not len(plans[dataset.id])
        ]
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
            (only,) = model.text_encoders
            message = f"{expert}: {model.family.name} has one text encoder, {only}; it is trained"
            told.append(Remark(reason="ONE_TEXT_ENCODER", message=message))
    return told


def left_out(findings: Iterable[Finding]) -> list[Remark]:
    """Return what says which images a dataset names and training does not see, and why.

    Args:
        findings: Of the expansion and of the plans; those of images that are used say nothing.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for one in findings:
        if one.action == "skipped" and one.reason not in _NO_IMAGES:
            places.setdefault((one.dataset, one.reason), []).append(one.place)
    return [
        Remark(
            reason="IMAGES_LEFT_OUT",
            message=f"dataset {dataset}: {len(found)} left out, {reason}: "
            + ", ".join(found[:MAX_SHOWN])
            + (", ..." if len(found) > MAX_SHOWN else ""),
        )
        for (dataset, reason), found in sorted(places.items())
    ]


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
    rate = learning_rate_of(spec.optimizer)
    if spec.optimizer.name == "prodigy" and rate < PRODIGY_RATE:
        message = f"learning_rate {rate:g} multiplies what Prodigy estimates by itself; 1 is usual"
        yield Remark(reason="PRODIGY_RATE_LOW", message=message)
    run = spec.run
    if run.num_steps is not None and spec.checkpoints.every_steps > run.num_steps:
        message = (
            f"checkpoints come every {spec.checkpoints.every_steps} steps and the job has "
            f"{run.num_steps}: there is none before its end, from which it could resume"
        )
        yield Remark(reason="NO_CHECKPOINT", message=message)


def _refuse(violations: Sequence[FieldViolation]) -> None:
    if violations:
        raise JobInvalid(violations)


def _plans(spec: JobSpec, facts: JobFacts) -> tuple[Sequence[ExpertPlan], list[FieldViolation]]:
    """Return a job's experts, or none and what is wrong with its boundary."""
    if spec.stage != "single" and spec.boundary is None:
        problem = f"is missing, and stage is {spec.stage}"
        return (), [FieldViolation(field="boundary", description=problem)]
    lengths = [model.schedule.num_train_timesteps for model in facts.values()]
    try:
        length = max(lengths, default=DEFAULT_TRAIN_TIMESTEPS)
        return expert_plans(spec, num_train_timesteps=length), []
    except InvalidRequest as error:
        return (), list(error.violations)


def _objective(
    spec: JobSpec, facts: JobFacts, plans: Sequence[ExpertPlan]
) -> Iterator[FieldViolation]:
    """Tell what is wrong with the objective, once where that is so for both models."""
    ranges = [plan.timesteps for plan in plans] or [range(DEFAULT_TRAIN_TIMESTEPS)]
    schedules: list[NoiseSchedule | None] = list({model.schedule for model in facts.values()})
    told = [
        violation
        for schedule in schedules or [None]
        for violation in objective_violations(spec.objective, ranges, schedule)
    ]
    yield from dict.fromkeys(told)
    kinds = {one.kind for one in spec.dataset.datasets if not one.disabled}
    if spec.objective.regularisation_weight != 1 and "regularisation" not in kinds:
        yield FieldViolation(
            field="objective.regularisation_weight",
            description="is given, and there is no dataset of kind regularisation",
        )


def _stage(spec: JobSpec) -> Found:
    if spec.stage == "single" and spec.boundary is not None:
        yield "boundary", "lies between two experts, and stage is single"
    if spec.model.refiner is not None and spec.stage != "both":
        yield "model.refiner", f"belongs to stage both, and stage is {spec.stage}"


def _adapter(spec: JobSpec) -> Found:
    adapter = spec.adapter
    if adapter.start_from is not None:
        try:
            split_reference(adapter.start_from)
        except InvalidRequest as error:
            yield "adapter.start_from", error.violations[0].description


def _patterns(spec: JobSpec, facts: JobFacts) -> Found:
    """Patterns are callers', and none may keep a server busy by how it is matched."""
    modules = [
        name
        for model in facts.values()
        for name, _ in target_modules(model.shapes["unet"], spec.adapter.targets)
    ]
    for field in ("rank_pattern", "alpha_pattern"):
        sound = []
        for pattern in getattr(spec.adapter, field):
            if problem := pattern_problem(pattern):
                yield f"adapter.{field}", f"{pattern!r:.80} is no regular expression: {problem}"
            else:
                sound.append(pattern)
        if slow := slow_pattern(sound, dict.fromkeys(modules), limit_s=PATTERN_S):
            yield f"adapter.{field}", f"{slow!r:.80} is not matched within {PATTERN_S:g} s"


def _text(spec: JobSpec) -> Found:
    text = spec.text_encoders
    used = {"none": (), "lora": [one.name for one in fields(text)], "full": _FULL}[text.method]
    for one in fields(text):
        is_given = getattr(text, one.name) != getattr(TextEncoderSpec(), one.name)
        if is_given and one.name not in ("method", *used):
            yield f"text_encoders.{one.name}", f"is given, and their method is {text.method}"


def _devices(spec: JobSpec) -> Found:
    run = spec.run
    if run.side_by_side and spec.stage != "both":
        yield "run.side_by_side", f"trains two experts at once, and stage {spec.stage} has one"
    if run.side_by_side and reads_trained_texts(spec, "refiner"):
        problem = "is true, and the refiner waits for the text encoders that the base trains"
        yield "run.side_by_side", problem
    if run.side_by_side:
        for field, given in (("num_devices", run.num_devices), ("num_nodes", run.num_nodes)):
            if given > 1:
                problem = f"is {given}, and side by side each expert has one device of one node"
                yield f"run.{field}", problem
    if run.sharding == "fsdp2" and run.num_devices * run.num_nodes < 2:
        yield "run.sharding", "fsdp2 shards over devices, and an expert has one"


def _datasets(spec: JobSpec) -> Found:
    kinds = [one.kind for one in spec.dataset.datasets if not one.disabled]
    if "train" not in kinds:
        yield "dataset.datasets", "none of kind train is enabled"


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
