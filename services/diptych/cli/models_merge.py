"""``diptych models merge``: full fine-tunes of one base become one checkpoint."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import typer
from rich.markup import escape

from diptych.cli.embedded import need_extra
from diptych.cli.options import AsJson
from diptych.cli.report import Report, reporting
from diptych.errors import FieldViolation, InvalidRequest
from diptych.inference.settings import load_settings
from diptych.nano.pair import EXPERTS, expert_path

if TYPE_CHECKING:
    from diptych.inference.expert_merge import ExpertMerge

__all__ = ["merge_models", "parse_weighted"]

MERGE_FLAGS: Final[Mapping[str, str]] = {
    "method": "--method",
    "density": "--density",
    "weights": "EXPERT@WEIGHT",
    "experts": "EXPERT@WEIGHT",
    "scale": "--scale",
    "seed": "--seed",
    "election": "--election",
    "weighted_vote": "--weighted-vote",
    "epsilon": "--epsilon",
    "position": "--position",
}
_WORST: Final = 5


Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="linear, ties, dare_linear, dare_ties, magnitude_prune, della, della_linear, slerp.",
    ),
]
Density = Annotated[
    float | None, typer.Option("--density", help="Share of values kept, in (0, 1].")
]
Election = Annotated[
    str | None, typer.Option("--election", help="How signs are elected: total or frequency.")
]
WeightedVote = Annotated[
    bool | None,
    typer.Option("--weighted-vote/--equal-vote", help="Whether weights count in elections."),
]
Epsilon = Annotated[
    float | None, typer.Option("--epsilon", help="DELLA: how far chances lie apart.")
]
Position = Annotated[
    float | None, typer.Option("--position", help="SLERP: 0 is the first, 1 the second.")
]


def merge_models(
    experts: Annotated[
        list[str],
        typer.Argument(metavar="EXPERT@WEIGHT...", help="Checkpoints trained from the base."),
    ],
    *,
    base: Annotated[str, typer.Option("--base", help="What all experts were trained from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    method: Method = "ties",
    weight: Annotated[
        float, typer.Option("--weight", help="Of experts that name none themselves.")
    ] = 1.0,
    density: Density = None,
    scale: Annotated[
        float, typer.Option("--scale", help="The merged change is multiplied by this.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of what is dropped at random.")] = 0,
    election: Election = None,
    weighted_vote: WeightedVote = None,
    epsilon: Epsilon = None,
    position: Position = None,
    as_json: AsJson = False,
) -> None:
    """Merge the UNets of fully fine-tuned checkpoints, tensor by tensor, into a new checkpoint."""
    with reporting(as_json=as_json, flags=MERGE_FLAGS) as report:
        need_extra("merging models")
        from diptych.adapters.merge.spec import MergeSpec
        from diptych.inference.expert_merge import merge_experts
        from diptych.models.checkpoint import SourceConfig

        named = [parse_weighted(text, weight) for text in experts]
        spec = MergeSpec(
            method=method,
            weights=tuple(given for _, given in named),
            density=density,
            scale=scale,
            seed=seed,
            election=cast("Literal['total', 'frequency'] | None", election),
            weighted_vote=weighted_vote,
            epsilon=epsilon,
            position=position,
        )
        home = load_settings().home
        with report.progress() as bar:
            task = bar.add_task("merging", total=None)
            merged = merge_experts(
                _on_disk(base),
                [_on_disk(source) for source, _ in named],
                spec,
                out,
                config=SourceConfig(cache_dir=home / "models", experts_dir=home / "experts"),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        _tell(report, merged)


def parse_weighted(text: str, default: float) -> tuple[str, float]:
    """Return the source and weight in ``SOURCE@WEIGHT``; what is no number is part of the source.

    Raises:
        InvalidRequest: The weight is not finite.
    """
    source, _, number = text.rpartition("@")
    try:
        weight = float(number)
    except ValueError:
        return text, default
    if not source:
        return text, default
    if not math.isfinite(weight):
        problem = f"{text!r} has a weight that is not a finite number"
        raise InvalidRequest([FieldViolation(field="weights", description=problem)])
    return source, weight


def _on_disk(source: str) -> str:
    """Return the folder of an embedded expert, any other source as it is."""
    name = source.removeprefix("nano/")
    return str(expert_path(name)) if name != source and name in EXPERTS else source


def _tell(report: Report, merged: "ExpertMerge") -> None:
    report.say(escape(str(merged.folder)))
    kept = ", ".join(merged.kept_parts)
    report.note(f"{len(merged.tensors)} tensors merged; from the base as they are: {escape(kept)}")
    report.note(f"relative error against the weighted sum: {merged.error:.4g}")
    worst = sorted(merged.tensors, key=lambda one: -one.error)[:_WORST]
    for one in worst if merged.error > 0 else ():
        report.note(f"  {one.error:.4g}  {escape(one.name)}")
    report.answer(
        {
            "path": str(merged.folder),
            "error": merged.error,
            "kept_parts": list(merged.kept_parts),
            "tensors": [{"name": one.name, "error": one.error} for one in merged.tensors],
        }
    )
