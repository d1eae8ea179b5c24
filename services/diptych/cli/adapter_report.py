"""What commands about adapters share: their words, their flags, and how they show an adapter."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from diptych.cli.report import Report
from diptych.clients.adapter_values import AdapterInfo, MergeResult, OnProgress

__all__ = [
    "FLAGS",
    "MEBIBYTE",
    "Adapter",
    "Family",
    "Force",
    "Name",
    "Replace",
    "Stage",
    "Tag",
    "as_mapping",
    "place_of",
    "progress_bar",
    "show_adapter",
    "tell_files",
    "tell_merge",
]

FLAGS: Final[Mapping[str, str]] = {
    "adapter": "ADAPTER",
    "expected_digest": "--expected-digest",
    "election": "--election",
    "energy": "--energy",
    "density": "--density",
    "format": "--format",
    "header.family": "--family",
    "header.name": "--name",
    "header.stage": "--stage",
    "header.tag": "--tag",
    "header.uri": "SOURCE",
    "uri": "SOURCE",
    "kind": "--kind",
    "method": "--method",
    "name": "--name",
    "num_steps": "--steps",
    "out": "--out",
    "prompts": "--prompt",
    "rank": "--rank",
    "seed": "--seed",
    "slerp_t": "--slerp-t",
    "source": "SOURCE",
    "sources": "SOURCES",
    "space": "--space",
    "stage": "--stage",
    "tag": "--tag",
}
"""Field of a request -> the flag that sets it."""

MEBIBYTE: Final = 1 << 20
NUM_LAYERS_SHOWN: Final = 5

Adapter = Annotated[str, typer.Argument(help="NAME, NAME:TAG or sha256:...", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="What to call it.", show_default=False)]
Tag = Annotated[str, typer.Option("--tag", help="Its tag; latest otherwise.")]
Family = Annotated[
    str, typer.Option("--family", help="What it was made for, over what the file says.")
]
Stage = Annotated[
    str | None, typer.Option("--stage", help="base, refiner or both, over what the file says.")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Move the name if it is another adapter's.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Although it was made for another model; logged.")
]


@contextmanager
def progress_bar(report: Report, label: str) -> Iterator[OnProgress]:
    """Show a bar for as long as this lasts; give what moves it."""
    with report.progress() as bar:
        task = bar.add_task(label, total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield move


def show_adapter(report: Report, shown: AdapterInfo) -> None:
    """Tell about one adapter, to a person or as the command's JSON object."""
    _describe(report, shown)
    report.answer(as_mapping(shown))


def _describe(report: Report, shown: AdapterInfo) -> None:
    title = f"{shown.name}:{shown.tag}" if shown.name else shown.digest
    report.say(f"[bold]{escape(title)}[/]  [dim]{shown.digest}[/]")
    made_for = f"{shown.family or 'unknown family'}, {shown.stage}"
    if shown.prediction_type:
        made_for += f", {shown.prediction_type}"
    report.say(
        f"{' '.join(shown.kinds) or 'nothing'}; rank {shown.max_rank}, "
        f"{shown.num_targets} weights, {shown.size_bytes / MEBIBYTE:.1f} MiB; "
        f"for {escape(made_for)}; {place_of(shown)}"
    )
    if shown.tokens or shown.trigger_words:
        report.say(f"prompt words: {escape(' '.join((*shown.tokens, *shown.trigger_words)))}")


def tell_merge(report: Report, result: MergeResult) -> None:
    """Tell what came of a merge, to a person or as the command's JSON object."""
    _describe(report, result.adapter)
    report.say(f"relative error {result.relative_error:.4f}")
    for layer in result.layers[:NUM_LAYERS_SHOWN]:
        report.say(f"[dim]{layer.relative_error:.4f}  {escape(layer.target)} rank {layer.rank}[/]")
    for token, renamed in result.renamed_tokens.items():
        report.say(f"token {escape(token)} is now {escape(renamed)}")
    report.answer(
        {
            "adapter": as_mapping(result.adapter),
            "relative_error": _finite(result.relative_error),
            "layers": [
                {**asdict(layer), "relative_error": _finite(layer.relative_error)}
                for layer in result.layers
            ],
            "renamed_tokens": dict(result.renamed_tokens),
        }
    )


def tell_files(report: Report, files: Sequence[Path]) -> None:
    """Tell which files were written."""
    for file in files:
        report.say(escape(str(file)))
    report.answer({"files": [str(file) for file in files]})


def as_mapping(shown: AdapterInfo) -> dict[str, Any]:
    """Return an adapter as JSON can say it."""
    return {**asdict(shown), "created_at": shown.created_at.isoformat()}


def place_of(shown: AdapterInfo) -> str:
    """Return where an adapter is, in words."""
    residency = shown.residency
    kept = ", kept" if residency.pinned else ""
    users = f", {residency.num_requests} running" if residency.num_requests else ""
    return f"{residency.tier}{kept}{users}"


def _finite(value: float) -> float | None:
    """Return ``value`` as JSON can say it: an error without bound is none."""
    return value if math.isfinite(value) else None
