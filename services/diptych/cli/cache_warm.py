"""``diptych cache warm``: encode what a dataset needs, here, on a Ray cluster or at a server."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from diptych.cli.embedded import check_models, client_config, model_sources, need_extra
from diptych.cli.options import AsJson, BaseModelOption, RefinerModelOption, Server, TokenFile
from diptych.cli.report import EXIT_FAILED, Report, reporting
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import WarmCall
from diptych.embedding_cache.ports import NeedsConfig, Stage, WarmOutcome
from diptych.embedding_cache.settings import Settings, load_settings
from diptych.errors import DatasetInvalid, FieldViolation, InvalidRequest
from diptych.rpc.auth import DEFAULT_TENANT

if TYPE_CHECKING:
    from diptych.embedding_cache.warm import Warmer

__all__ = ["warm"]

NUM_SHOWN: Final = 10
"""Images that cannot be used that a person sees named."""
CACHE_MODULES: Final = ("torch", "diffusers", "transformers", "pyarrow", "datasets")
Move = Callable[[int, int], None]


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A dataset's manifest.", show_default=False)
]
Engine = Annotated[str, typer.Option("--engine", help="local or ray.")]
Stages = Annotated[
    list[str] | None,
    typer.Option(
        "--stage", help="base or refiner, whose encoders; may be repeated.", show_default="all"
    ),
]
Epochs = Annotated[
    int, typer.Option("--epochs", min=1, help="Where each epoch crops or flips anew.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="The job's: smaller buckets are merged.")
]
LongPrompt = Annotated[
    str, typer.Option("--long-prompt", help="Captions beyond the window: truncate or chunk.")
]
Force = Annotated[bool, typer.Option("--force", help="Also datasets whose mode is on_demand.")]
Directory = Annotated[
    Path | None, typer.Option("--dir", help="Folder of the embeddings.", file_okay=False)
]
Store = Annotated[
    str | None, typer.Option("--store", help="s3://BUCKET/PREFIX that machines share.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda:N, or auto for all there are.")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="RAY_ADDRESS, or a Ray here, otherwise.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is warmed up for, as the flags say."""

    file: Path
    stages: tuple[Stage, ...]
    """Empty: all that there are."""
    needs: NeedsConfig


def warm(
    file: FileArgument,
    *,
    engine: Engine = "local",
    stage: Stages = None,
    epochs: Epochs = 1,
    batch_size: BatchSize = 1,
    long_prompt: LongPrompt = "truncate",
    force: Force = False,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    directory: Directory = None,
    store: Store = None,
    device: Device = None,
    ray_address: RayAddress = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Encode what a dataset needs and is not there; stopped at any time, it goes on from there.

    Ends with status 1 if some images cannot be used.
    """
    with reporting(as_json=as_json, flags={"manifest": "FILE"}) as report:
        wanted = _wanted(
            file, stage, epochs=epochs, batch_size=batch_size, long_prompt=long_prompt, force=force
        )
        _check_flags(engine, server, ray_address, base=base, refiner=refiner)
        if server is not None:
            with EmbeddingCacheClient(client_config(server, token_file)) as client:
                outcome = _at_server(report, client, wanted)
        else:
            own: dict[str, object] = dict(model_sources(base, refiner))
            given = {"dir": directory, "store": store, "device": device}
            own |= {name: value for name, value in given.items() if value is not None}
            settings = load_settings(arguments={"cache": own})
            outcome = _here(report, settings, wanted, engine=engine, ray_address=ray_address)
        _tell(report, outcome)
        if outcome.failures:
            raise typer.Exit(EXIT_FAILED)


def _wanted(
    file: Path,
    stages: Sequence[str] | None,
    *,
    epochs: int,
    batch_size: int,
    long_prompt: str,
    force: bool,
) -> Wanted:
    """Return what the flags say.

    Raises:
        InvalidRequest: A stage or a treatment of long captions is unknown.
    """
    known = {stage.value: stage for stage in Stage}
    problems = [
        FieldViolation(field="--stage", description=f"{stage!r} is neither base nor refiner")
        for stage in stages or ()
        if stage not in known
    ]
    if long_prompt not in {"truncate", "chunk"}:
        description = f"{long_prompt!r} is neither truncate nor chunk"
        problems.append(FieldViolation(field="--long-prompt", description=description))
    if problems:
        raise InvalidRequest(problems)
    return Wanted(
        file=file,
        stages=tuple(known[stage] for stage in dict.fromkeys(stages or ())),
        needs=NeedsConfig(
            num_epochs=epochs,
            batch_size=batch_size,
            long_prompt="chunk" if long_prompt == "chunk" else "truncate",
            force=force,
        ),
    )


def _check_flags(
    engine: str,
    server: str | None,
    ray_address: str | None,
    *,
    base: str | None,
    refiner: str | None,
) -> None:
    """Check that the flags fit together.

    Raises:
        InvalidRequest: They do not.
    """
    problem = ""
    if engine not in {"local", "ray"}:
        problem = f"{engine!r} is neither local nor ray"
    elif engine == "ray" and server is not None:
        problem = "a server uses its own devices; ray is for a warm-up from here"
    elif engine != "ray" and ray_address is not None:
        problem = "--ray-address is for ray"
    if problem:
        raise InvalidRequest([FieldViolation(field="--engine", description=problem)])
    check_models(server, base=base, refiner=refiner)


def _at_server(report: Report, client: EmbeddingCacheClient, wanted: Wanted) -> WarmOutcome:
    """Let a server warm up, with its own files and buckets."""
    try:
        manifest = wanted.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot read {wanted.file}: {error}"
        raise DatasetInvalid([FieldViolation(field="manifest", description=problem)]) from error
    call = WarmCall(
        manifest=manifest,
        stages=[stage.value for stage in wanted.stages],
        batch_size=wanted.needs.batch_size,
        num_epochs=wanted.needs.num_epochs,
        long_prompt=wanted.needs.long_prompt,
        force=wanted.needs.force,
    )
    with _moving(report) as move:
        result = client.warm(call, progress=move, timeout_s=math.inf)
    return WarmOutcome(
        dataset=result.dataset,
        num_total=result.num_total,
        num_present=result.num_present,
        num_encoded=result.num_encoded,
        failures=tuple(result.failures.items()),
        num_cut=result.num_cut,
        left_out=tuple(result.left_out.items()),
    )


def _here(
    report: Report, settings: Settings, wanted: Wanted, *, engine: str, ray_address: str | None
) -> WarmOutcome:
    """Warm up from this process: with its devices, or a cluster's."""
    need_extra("warming up", extra="cache", modules=CACHE_MODULES)
    from diptych.datasets.manifest import read_manifest

    manifest = read_manifest(wanted.file)
    with (
        _warmer(settings, wanted, engine=engine, ray_address=ray_address) as warmer,
        _moving(report) as move,
    ):
        return warmer.warm_manifest(
            manifest,
            wanted.stages or warmer.stages,
            wanted.needs,
            tenant=DEFAULT_TENANT,
            go_on=lambda: None,
            progress=lambda done, total, _encoded, _failed: move(done, total),
        )


@contextmanager
def _warmer(
    settings: Settings, wanted: Wanted, *, engine: str, ray_address: str | None
) -> "Iterator[Warmer]":
    """Give what warms up: this machine, or a cluster."""
    from diptych.embedding_cache.warm import WarmConfig
    from diptych.embedding_cache.warm_loading import warming_here, warming_on_ray
    from diptych.embedding_cache.warm_serving import facts_file

    config = WarmConfig(folder=wanted.file.parent, facts=facts_file(settings))
    if engine == "ray":
        with warming_on_ray(settings, config, address=ray_address) as warmer:
            yield warmer
    else:
        with warming_here(settings, config) as warmer:
            yield warmer


@contextmanager
def _moving(report: Report) -> Iterator[Move]:
    """Show a bar as soon as it is known how much there is to do."""
    with report.progress() as bar:
        task = bar.add_task("reading the dataset", total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, description="encoding", completed=done, total=total)

        yield move


def _tell(report: Report, outcome: WarmOutcome) -> None:
    """Say what came of it."""
    report.answer(_as_mapping(outcome))
    made = f"{outcome.num_encoded} encoded, {outcome.num_present} were there"
    report.say(f"{outcome.num_total} embeddings are needed: {made}")
    if outcome.num_cut:
        report.say(f"{outcome.num_cut} captions are longer than the window, and were cut")
    for what, why in outcome.left_out:
        report.say(f"{escape(what)}: {escape(why)}")
    if outcome.failures:
        report.say(f"[bold]{len(outcome.failures)} cannot be had[/]")
    for item, problem in outcome.failures[:NUM_SHOWN]:
        report.say(f"  {escape(item)}  [dim]{escape(problem)}[/]")
    if len(outcome.failures) > NUM_SHOWN:
        report.say(f"  [dim]and {len(outcome.failures) - NUM_SHOWN} more; --json has them all[/]")
    report.say(f"[dim]{outcome.dataset}[/]")


def _as_mapping(outcome: WarmOutcome) -> dict[str, Any]:
    return {
        "dataset": str(outcome.dataset),
        "num_total": outcome.num_total,
        "num_present": outcome.num_present,
        "num_encoded": outcome.num_encoded,
        "num_cut": outcome.num_cut,
        "left_out": [{"what": what, "why": why} for what, why in outcome.left_out],
        "failures": [{"item": item, "problem": problem} for item, problem in outcome.failures],
    }
