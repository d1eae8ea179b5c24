"""``diptych cache warm``: encode what a dataset needs, here, on a Ray cluster or at a server."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.markup import escape

from diptych.cli.embedded import check_models, client_config, model_sources, need_extra
from diptych.cli.options import AsJson, BaseModelOption, RefinerModelOption, Server, TokenFile
from diptych.cli.report import EXIT_FAILED, Report, reporting
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.embedding_cache.ports import Stage, WarmOutcome
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is warmed up for, as the flags say."""

    file: Path
    stages: tuple[Stage, ...]
    """Empty: all that there are."""
    num_epochs: int
    batch_size: int
    long_prompt: Literal["truncate", "chunk"]
    force: bool


def warm(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A dataset's manifest.", show_default=False)
    ],
    *,
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage", help="base or refiner, whose encoders; may be repeated.", show_default="all"
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Where each epoch crops or flips anew.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="The job's: smaller buckets are merged.")
    ] = 1,
    long_prompt: Annotated[
        str, typer.Option("--long-prompt", help="Captions beyond the window: truncate or chunk.")
    ] = "truncate",
    force: Annotated[
        bool, typer.Option("--force", help="Also datasets whose mode is on_demand.")
    ] = False,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Folder of the embeddings.", file_okay=False)
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="s3://BUCKET/PREFIX that machines share.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda:N, or auto for all there are.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="RAY_ADDRESS, or a Ray here, otherwise.")
    ] = None,
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
            _check_served(wanted)
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
        num_epochs=epochs,
        batch_size=batch_size,
        long_prompt="chunk" if long_prompt == "chunk" else "truncate",
        force=force,
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


def _check_served(wanted: Wanted) -> None:
    """Check that nothing is asked of a server that it cannot be told.

    Raises:
        InvalidRequest: Something is.
    """
    told = {
        "--epochs": wanted.num_epochs != 1,
        "--batch-size": wanted.batch_size != 1,
        "--long-prompt": wanted.long_prompt != "truncate",
        "--force": wanted.force,
    }
    violations = [
        FieldViolation(field=flag, description="is for a warm-up from here, not at a server")
        for flag, is_told in told.items()
        if is_told
    ]
    if violations:
        raise InvalidRequest(violations)


def _at_server(report: Report, client: EmbeddingCacheClient, wanted: Wanted) -> WarmOutcome:
    """Let a server warm up, with its own files and buckets."""
    try:
        manifest = wanted.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot read {wanted.file}: {error}"
        raise DatasetInvalid([FieldViolation(field="manifest", description=problem)]) from error
    stages = [stage.value for stage in wanted.stages]
    with _moving(report) as move:
        result = client.warm(manifest, stages=stages, progress=move, timeout_s=math.inf)
    return WarmOutcome(
        dataset=result.dataset,
        num_total=result.num_total,
        num_present=result.num_present,
        num_encoded=result.num_encoded,
        failures=tuple(result.failures.items()),
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
            tenant=DEFAULT_TENANT,
            go_on=lambda: None,
            progress=lambda done, total, _encoded, _failed: move(done, total),
        )


@contextmanager
def _warmer(
    settings: Settings, wanted: Wanted, *, engine: str, ray_address: str | None
) -> "Iterator[Warmer]":
    """Give what warms up: this machine, or a cluster."""
    from diptych.embedding_cache.needs import NeedsConfig
    from diptych.embedding_cache.warm import WarmConfig
    from diptych.embedding_cache.warm_loading import warming_here, warming_on_ray
    from diptych.embedding_cache.warm_serving import facts_file

    config = WarmConfig(
        folder=wanted.file.parent,
        facts=facts_file(settings),
        needs=NeedsConfig(
            num_epochs=wanted.num_epochs,
            batch_size=wanted.batch_size,
            long_prompt=wanted.long_prompt,
            force=wanted.force,
        ),
    )
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
