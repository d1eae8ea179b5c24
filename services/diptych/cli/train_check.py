"""What a job would take, worked out here: its images are listed, its models' headers read."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from diptych.cli.indexing import facts_cache, reading_progress
from diptych.cli.report import Report
from diptych.cli.train_words import as_mapping, bytes_text, duration_text
from diptych.errors import JobInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diptych.clients.training_values import JobEstimate
    from diptych.training.estimate import Estimate
    from diptych.training.rules import Remark
    from diptych.training.spec import JobSpec

__all__ = ["Foretold", "foretell", "show_estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What is known of a job before it starts."""

    estimate: "Estimate"
    remarks: "Sequence[Remark]"
    num_images: int
    """That are used of its datasets."""


def foretell(report: Report, spec: "JobSpec", *, images_per_s: float | None) -> Foretold:
    """Return what a job would take.

    Raises:
        JobInvalid: It cannot be run.
        DatasetInvalid: Its images are not there.
    """
    from diptych.adapters.naming import DEFAULT_TENANT
    from diptych.datasets.expansion import Expansion
    from diptych.datasets.plan import make_plans
    from diptych.models.trained_experts import find_expert
    from diptych.training.estimate import estimate
    from diptych.training.names import missing_start, open_adapters
    from diptych.training.rules import check_images, check_with_models, remarks
    from diptych.training.settings import load_settings

    settings = load_settings()
    facts = check_with_models(
        spec,
        models_dir=settings.home / "models",
        find_expert=partial(find_expert, settings.home / "experts"),
    )
    if spec.adapter.start_from is not None:
        own, home = settings.training, settings.home.expanduser().absolute()
        adapters = open_adapters(home, url=own.adapters_store, s3_endpoint=own.s3_endpoint)
        missing = missing_start(spec.adapter.start_from, adapters, tenant=DEFAULT_TENANT)
        if missing:
            raise JobInvalid(missing)
    with facts_cache(report) as cache, reading_progress(report) as progress:
        expansion = Expansion(cache=cache, progress=progress)
        index = expansion.index(spec.dataset)
    plans = make_plans(index, batch_size=spec.run.batch_size)
    check_images(spec, plans, expansion.findings)
    return Foretold(
        estimate=estimate(spec, facts, plans=plans, images_per_s=images_per_s),
        remarks=remarks(spec, facts, plans),
        num_images=sum(len(plan) for plan in plans.values() if plan.spec.kind != "eval"),
    )


def show_estimate(report: Report, found: "JobEstimate | Estimate") -> dict[str, Any]:
    """Say what a job would take, and return it as plain values."""
    unknown = "not known before its models are fetched"
    rows = (
        ("trained parameters", _count(found.num_trained_parameters) or unknown),
        ("memory of one device", _size(found.peak_memory_bytes) or unknown),
        ("disk", _size(found.disk_bytes) or unknown),
        ("steps of an expert", _count(found.num_steps) or "not known before its images are listed"),
    )
    for label, value in rows:
        report.say(f"{label:<22}{value}")
    if found.seconds is not None:
        report.say(f"{'time':<22}{escape(duration_text(found.seconds))}")
    return as_mapping(found)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return "" if value is None else bytes_text(value)
