"""``diptych dataset import-simpletuner``: a user's file of another trainer as a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from diptych.cli.options import AsJson
from diptych.cli.report import EXIT_FAILED, Report, reporting
from diptych.errors import DatasetInvalid, FieldViolation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diptych.datasets.simpletuner.conversion import Conversion
    from diptych.datasets.simpletuner.options import Said

__all__ = ["import_simpletuner"]

_COLOURS: Final = {"differs": "yellow", "refused": "yellow", "unsupported": "bold red"}
_DEFAULTS: Final = "What stands behind entries"


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A multidatabackend.json.", show_default=False)
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="The manifest to write.", show_default=False)
]
Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        help="Folder that paths in FILE begin at: where SimpleTuner was started; here otherwise.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="SimpleTuner's config.json, for its global options.",
        show_default=False,
        rich_help_panel=_DEFAULTS,
    ),
]
Resolution = Annotated[
    float | None, typer.Option("--resolution", help="Global; 1024.", rich_help_panel=_DEFAULTS)
]
ResolutionType = Annotated[
    str | None,
    typer.Option(
        "--resolution-type",
        help="Global: pixel, area or pixel_area; pixel_area.",
        rich_help_panel=_DEFAULTS,
    ),
]
CaptionStrategy = Annotated[
    str | None,
    typer.Option("--caption-strategy", help="Global; filename.", rich_help_panel=_DEFAULTS),
]
AspectMap = Annotated[
    Path | None,
    typer.Option(
        "--aspect-map",
        help="An aspect_resolution_map of your own, for all entries.",
        show_default=False,
        rich_help_panel=_DEFAULTS,
    ),
]
AllowUnsupported = Annotated[
    bool,
    typer.Option(
        "--allow-unsupported", help="Write the manifest though something cannot be said in it."
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Write over the manifest.")]


def import_simpletuner(
    file: FileArgument,
    *,
    out: Out,
    base: Base = None,
    config: Config = None,
    resolution: Resolution = None,
    resolution_type: ResolutionType = None,
    caption_strategy: CaptionStrategy = None,
    aspect_map: AspectMap = None,
    allow_unsupported: AllowUnsupported = False,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Convert SimpleTuner's datasets, and say of every option what becomes of it."""
    from diptych.datasets.simpletuner.conversion import convert_simpletuner

    with reporting(as_json=as_json, flags={"file": "FILE", "out": "--out"}) as report:
        defaults = _defaults(config) if config else {}
        given = {
            "resolution": resolution,
            "resolution_type": resolution_type,
            "caption_strategy": caption_strategy,
        }
        defaults |= {name: value for name, value in given.items() if value is not None}
        sizes = _mapping(aspect_map, "--aspect-map") if aspect_map else None
        conversion = convert_simpletuner(
            _read(file, "file"),
            base=(base or Path()).absolute(),
            defaults=defaults,
            aspect_map=sizes,
        )
        is_written = allow_unsupported or not conversion.unsupported
        if is_written:
            _write(out, conversion.text, replace=replace)
        _tell(report, conversion, out if is_written else None)
        if not is_written:
            raise typer.Exit(EXIT_FAILED)


def _defaults(path: Path) -> dict[str, Any]:
    """Return SimpleTuner's configuration with its options' names as they are without dashes."""
    config = _mapping(path, "--config")
    return {name.lstrip("-").replace("-", "_"): value for name, value in config.items()}


def _mapping(path: Path, field: str) -> dict[str, Any]:
    from diptych.datasets.simpletuner.conversion import read_json

    found = read_json(_read(path, field), field)
    if not isinstance(found, dict):
        raise _refusal(field, "is no JSON object")
    return found


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refusal(field, f"cannot read {str(path)!r:.200}: {error.strerror}") from error


def _write(path: Path, text: str, *, replace: bool) -> None:
    try:
        with path.open("w" if replace else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise _refusal("out", f"{str(path)!r:.200} is there; --replace writes over it") from error
    except OSError as error:
        raise _refusal("out", f"cannot write {str(path)!r:.200}: {error.strerror}") from error


def _tell(report: Report, conversion: "Conversion", out: Path | None) -> None:
    report.answer(
        {
            "out": str(out) if out else None,
            "datasets": [one.id for one in conversion.manifest.datasets],
            "num_unsupported": len(conversion.unsupported),
            "options": [_as_mapping(one) for one in conversion.said],
        }
    )
    if report.as_json:
        return
    for entry in dict.fromkeys(one.entry for one in conversion.said):
        _show(report, entry, [one for one in conversion.said if one.entry == entry])
    if out is not None:
        report.say(f"wrote {escape(str(out))}: diptych dataset check {escape(str(out))}")
    else:
        count = len(conversion.unsupported)
        report.note(
            f"[bold red]nothing is written:[/] {count} options change training and cannot be said "
            "here; --allow-unsupported writes the rest"
        )


def _show(report: Report, entry: str, said: "Sequence[Said]") -> None:
    """Show one entry's options: those that stay as they are on a line, the others by outcome."""
    from diptych.datasets.simpletuner.options import OUTCOMES

    report.say(f"[bold]{escape(entry)}[/]")
    honoured = [one.option for one in said if one.outcome == "honoured"]
    if honoured:
        report.say(f"  {'honoured':<12} [dim]{escape(', '.join(honoured))}[/]")
    for outcome in OUTCOMES[1:]:
        colour = _COLOURS.get(outcome, "none")
        for one in (one for one in said if one.outcome == outcome):
            what = escape(f"{one.option} {one.value}".rstrip())
            report.say(f"  [{colour}]{outcome:<12}[/] {what}  [dim]{escape(one.detail)}[/]")


def _as_mapping(one: "Said") -> dict[str, str]:
    return {
        "entry": one.entry,
        "option": one.option,
        "value": one.value,
        "outcome": one.outcome,
        "detail": one.detail,
    }


def _refusal(field: str, problem: str) -> DatasetInvalid:
    return DatasetInvalid([FieldViolation(field=field, description=problem)])
