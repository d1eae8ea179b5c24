"""``diptych dataset``: what a manifest comes to, before anything is trained on it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from diptych.cli.dataset_import import import_simpletuner
from diptych.cli.indexing import facts_cache, reading_progress
from diptych.cli.options import AsJson
from diptych.cli.report import EXIT_FAILED, Report, reporting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diptych.datasets.findings import Finding, Findings
    from diptych.datasets.index import DatasetIndex, Index
    from diptych.datasets.plan import Plan

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Manifests of images to train on.")

NUM_SHOWN: Final = 10
"""Findings of one reason that a person sees unless all are asked for."""
MEGAPIXEL: Final = 10**6
_SHOWN_FIRST: Final = ("skipped", "reported", "upscaled", "cropped", "repeated")
_BUCKET_COLUMNS: Final = ("cropped", "enlarged", "merged", "filled")

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A manifest, YAML or JSON.", show_default=False)
]


app.command("import-simpletuner")(import_simpletuner)


@app.callback()
def dataset() -> None:
    """Manifests of images to train on."""


@app.command("check")
def check(
    file: FileArgument,
    *,
    examine: Annotated[
        bool,
        typer.Option(
            "--examine/--no-examine",
            help="Decode every image to find damage and near duplicates.",
        ),
    ] = True,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Every finding, not {NUM_SHOWN} of a kind.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="The job's, for sets that have none.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """List what a manifest comes to, and every image that is not used as it is, with its reason."""
    from diptych.datasets.expansion import Expansion
    from diptych.datasets.manifest import read_manifest
    from diptych.datasets.plan import make_plans

    with reporting(as_json=as_json, flags={"manifest": "FILE", "source": "FILE"}) as report:
        manifest = read_manifest(file)
        with facts_cache(report) as cache, reading_progress(report) as progress:
            expansion = Expansion(cache=cache, examine=examine, progress=progress)
            index = expansion.index(manifest)
        plans = make_plans(index, batch_size=batch_size)
        for finding in (one for plan in plans.values() for one in plan.findings):
            expansion.findings.add(finding)
        report.answer(_as_mapping(index, plans, expansion.findings))
        if not as_json:
            _show(report, plans)
            _show_findings(report, expansion.findings, show_all=show_all)
            report.say(f"[dim]{index.digest}[/]")
        if not all(map(len, plans.values())):
            raise typer.Exit(EXIT_FAILED)


def _show(report: Report, plans: "Mapping[str, Plan]") -> None:
    sets = Table("dataset", "kind", "source", "images", "used", "captions", "megapixels", box=None)
    buckets = Table(
        "dataset", "bucket", "images", "cropped", "enlarged", "merged", "filled", box=None
    )
    for name, plan in plans.items():
        facts, spec = _facts(plan.index), plan.spec
        counts = (facts["images"], len(plan), facts["captions"])
        row = (escape(name), spec.kind, spec.source.type, *map(str, counts))
        sets.add_row(*row, _range(facts["megapixels"]))
        for one in _buckets(plan):
            size = f"{one['width']}x{one['height']}"
            shown = [str(one[column]) for column in ("images", *_BUCKET_COLUMNS)]
            buckets.add_row(escape(name), size, *shown)
    report.out.print(sets)
    report.out.print()
    report.out.print(buckets)


def _buckets(plan: "Plan") -> list[dict[str, Any]]:
    return [
        {
            "width": one.width,
            "height": one.height,
            "images": len(one.rows),
            "cropped": one.num_cropped,
            "enlarged": one.num_enlarged,
            "merged": one.num_merged,
            "filled": one.num_filled,
        }
        for one in plan.buckets
    ]


def _show_findings(report: Report, findings: "Findings", *, show_all: bool) -> None:
    shown: Counter[tuple[str, str, str]] = Counter()
    counts = findings.counts()
    for one in sorted(findings, key=_shown_at):
        kind = _kind_of(one)
        if not shown[kind]:
            reason = one.reason.replace("_", " ")
            report.say(f"[bold]{escape(one.dataset)}[/] {one.action}: {reason} ({counts[kind]})")
        shown[kind] += 1
        if show_all or shown[kind] <= NUM_SHOWN:
            report.say(f"  {escape(one.place)}  [dim]{escape(one.detail)}[/]")
        elif shown[kind] == NUM_SHOWN + 1:
            report.say(f"  [dim]and {counts[kind] - NUM_SHOWN} more; --all shows them[/]")


def _shown_at(one: "Finding") -> tuple[str, int, str]:
    return one.dataset, _SHOWN_FIRST.index(one.action), one.reason


def _kind_of(one: "Finding") -> Any:  # noqa: ANN401 - a key of Findings.counts
    return one.dataset, one.action, one.reason


def _facts(one: "DatasetIndex") -> dict[str, Any]:
    """Return what a person or a program wants to know of a dataset."""
    widths, heights = one.sizes[:, 0], one.sizes[:, 1]
    pixels, aspects = widths * heights / MEGAPIXEL, widths / heights
    return {
        "images": len(one),
        "captions": sum(1 for _ in one.all_captions()),
        "megapixels": [float(pixels.min()), float(pixels.max())] if len(one) else [],
        "aspects": [float(aspects.min()), float(aspects.max())] if len(one) else [],
    }


def _range(found: list[float]) -> str:
    return f"{found[0]:.2f} to {found[1]:.2f}" if found else "none"


def _as_mapping(
    index: "Index", plans: "Mapping[str, Plan]", findings: "Findings"
) -> dict[str, Any]:
    return {
        "digest": str(index.digest),
        "datasets": [
            {
                "id": one.spec.id,
                "kind": one.spec.kind,
                "source": one.spec.source.type,
                "digest": str(one.digest),
                **_facts(one),
                "used": len(plans[name]),
                "buckets": _buckets(plans[name]),
            }
            for name, one in index.datasets.items()
        ],
        "findings": [
            {
                "dataset": one.dataset,
                "place": one.place,
                "action": one.action,
                "reason": one.reason,
                "detail": one.detail,
            }
            for one in findings
        ],
    }
