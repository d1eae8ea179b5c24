"""One call of a painting command: connect, follow, write the files, say what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.markup import escape

from diptych.cli.embedded import check_models, connect
from diptych.cli.files import check_destination
from diptych.cli.painting import Painted, follow, preview_saver, save, settings_of
from diptych.cli.refusals import Refusals
from diptych.cli.report import Report
from diptych.clients.calls import GenerateCall, RefineCall

__all__ = ["Destination", "Where", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which server a call goes to, and for how long."""

    server: str | None
    """HOST:PORT; None embeds one."""
    token_file: Path | None = None
    timeout_s: float | None = None
    base: str | None = None
    """Model sources of the embedded server; None is its default."""
    refiner: str | None = None

    @classmethod
    def of(
        cls,
        server: str | None,
        token_file: Path | None,
        timeout_s: float | None,
        *,
        base: str | None = None,
        refiner: str | None = None,
    ) -> Self:
        """Return where the flags of a command say."""
        return cls(
            server=server, token_file=token_file, timeout_s=timeout_s, base=base, refiner=refiner
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the answer goes, as ``files.picture_paths`` reads it, and in which format."""

    out: Path | None
    output_format: str


def run(
    report: Report,
    call: GenerateCall | RefineCall,
    *,
    where: Where,
    destination: Destination,
    refusals: Refusals | None = None,
) -> None:
    """Make ``call``, write what it paints, and tell.

    Where ``refusals`` or the destination stand against it, the server only checks the call, so
    that everything wrong is told at once.

    Raises:
        DiptychError: What the server raised, or what kept the files from being written.
    """
    out, output_format = destination.out, destination.output_format
    refusals = refusals or Refusals()
    with refusals.noting():
        check_destination(out, output_format=output_format)
    with refusals.noting():
        check_models(where.server, base=where.base, refiner=where.refiner)
    with (
        refusals.told_with(),
        connect(
            report,
            where.server,
            base=where.base,
            refiner=where.refiner,
            token_file=where.token_file,
        ) as client,
    ):
        if refusals:
            raise refusals.with_others(client.check(call, timeout_s=where.timeout_s))
        if isinstance(call, GenerateCall):
            events = client.generate(call, timeout_s=where.timeout_s)
        else:
            events = client.refine(call, timeout_s=where.timeout_s)
        on_preview = preview_saver(out, output_format, report)
        painted = follow(events, report, on_preview=on_preview)
    files = save(painted, out, output_format=output_format, settings=settings_of(call))
    _tell(report, painted, files)


def _tell(report: Report, painted: Painted, files: list[dict[str, Any]]) -> None:
    """Say what was written, to a person or as the command's JSON object."""
    resolved, timings = painted.resolved, painted.timings
    for file in files:
        report.say(f"{escape(file['path'])}  [dim]seed {file['seed']}[/]")
    boundary = f", boundary {resolved.boundary}" if resolved.boundary else ""
    report.note(
        f"[dim]{resolved.width}x{resolved.height}, {resolved.num_steps} steps of "
        f"{resolved.solver}{boundary}; {timings.total_s:.2f} s[/]"
    )
    report.answer({**_as_mapping(painted), "files": files})


def _as_mapping(painted: Painted) -> Mapping[str, Any]:
    resolved, timings = painted.resolved, painted.timings
    names = (
        "request_id",
        "seed",
        "num_images",
        "num_steps",
        "width",
        "height",
        "solver",
        "boundary",
    )
    times = ("queue_s", "encode_s", "base_s", "refiner_s", "decode_s", "total_s")
    counts = ("num_texts_encoded", "num_texts_cached")
    return {
        **{name: getattr(resolved, name) for name in names},
        "timings": {name: getattr(timings, name) for name in times + counts},
    }
