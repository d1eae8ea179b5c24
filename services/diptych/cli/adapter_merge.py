"""``diptych adapters merge``: adapters in, one adapter out."""

from typing import Annotated

import typer

from diptych.cli.adapter_choices import parse_sources
from diptych.cli.adapter_report import FLAGS, Force, Name, Replace, Tag, progress_bar, tell_merge
from diptych.cli.embedded import connect_adapters
from diptych.cli.options import (
    AsJson,
    BaseModelOption,
    RefinerModelOption,
    Server,
    Timeout,
    TokenFile,
)
from diptych.cli.report import reporting
from diptych.clients.adapter_values import MergeCall

__all__ = ["merge"]

Sources = Annotated[
    list[str], typer.Argument(help="NAME[:TAG]\\[@WEIGHT], two or more.", show_default=False)
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune, della, slerp "
        "or zip.",
    ),
]
Space = Annotated[
    str | None, typer.Option("--space", help="product (default) or factors, which is PEFT's.")
]
Density = Annotated[
    float | None, typer.Option("--density", help="Share of values kept, in (0, 1].")
]
Rank = Annotated[int | None, typer.Option("--rank", help="Rank of the result.")]
Energy = Annotated[
    float | None, typer.Option("--energy", help="Or the share of the energy to keep.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of what is dropped.")]
Election = Annotated[str | None, typer.Option("--election", help="Of signs: total or frequency.")]
WeightedVote = Annotated[
    bool | None,
    typer.Option("--weighted-vote/--unweighted-vote", help="Whether weights elect signs."),
]
SlerpT = Annotated[float | None, typer.Option("--slerp-t", help="Place between the two, 0 to 1.")]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Of zip: one per source, in order.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Of zip.")]


def merge(
    sources: Sources,
    *,
    method: Method = "linear",
    name: Name,
    tag: Tag = "",
    space: Space = None,
    density: Density = None,
    rank: Rank = None,
    energy: Energy = None,
    seed: Seed = 0,
    election: Election = None,
    weighted_vote: WeightedVote = None,
    slerp_t: SlerpT = None,
    prompt: Prompts = None,
    steps: Steps = None,
    replace: Replace = False,
    force: Force = False,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Merge adapters into a new one: their updates, not their factors."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        call = MergeCall(
            sources=parse_sources(sources),
            method=method,
            name=name,
            tag=tag,
            space=space,
            density=density,
            rank=rank,
            energy=energy,
            seed=seed,
            election=election,
            weighted_vote=weighted_vote,
            slerp_t=slerp_t,
            prompts=tuple(prompt or ()),
            num_steps=steps,
            replace=replace,
            force=force,
        )
        with (
            connect_adapters(
                report, server, base=base, refiner=refiner, token_file=token_file
            ) as client,
            progress_bar(report, "merging") as progress,
        ):
            result = client.merge(call, progress=progress, timeout_s=timeout)
        tell_merge(report, result)
