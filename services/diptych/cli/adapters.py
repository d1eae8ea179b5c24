"""``diptych adapters``: bring them in, look at them, merge them, and take them elsewhere."""

import re
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from diptych.cli.adapter_files import as_upload, convert_file
from diptych.cli.adapter_merge import merge
from diptych.cli.adapter_report import (
    FLAGS,
    MEBIBYTE,
    Adapter,
    Family,
    Force,
    Name,
    Replace,
    Stage,
    Tag,
    as_mapping,
    place_of,
    progress_bar,
    show_adapter,
    tell_files,
)
from diptych.cli.embedded import connect_adapters, need_extra
from diptych.cli.options import (
    AsJson,
    BaseModelOption,
    RefinerModelOption,
    Server,
    Timeout,
    TokenFile,
)
from diptych.cli.report import reporting
from diptych.clients.adapter_values import AdapterFilter, ImportCall
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="LoRA, DoRA and learned tokens.")
app.command("merge")(merge)

URI: Final = re.compile(r"(s3|hf|https)://.*|file:.*", re.DOTALL)


@app.command("import")
def import_adapter(
    source: Annotated[
        str,
        typer.Argument(
            help="A .safetensors file, a folder of PEFT's, s3://, hf://owner/name (or /file of "
            "it), or file: on the server.",
            show_default=False,
        ),
    ],
    *,
    name: Name,
    tag: Tag = "",
    family: Family = "",
    stage: Stage = None,
    trigger: Annotated[
        list[str] | None, typer.Option("--trigger", help="A word to show to users; repeatable.")
    ] = None,
    replace: Replace = False,
    expected_digest: Annotated[
        str, typer.Option("--expected-digest", help="Move the name only if it points there.")
    ] = "",
    force: Force = False,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Bring an adapter in, whatever program wrote it, and give it a name."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        call = ImportCall(
            name=name,
            source=source if URI.fullmatch(source) else as_upload(Path(source)),
            tag=tag,
            family=family,
            stage=stage,
            trigger_words=tuple(trigger or ()),
            replace=replace,
            expected_digest=expected_digest,
            force=force,
        )
        with (
            connect_adapters(
                report, server, base=base, refiner=refiner, token_file=token_file
            ) as client,
            progress_bar(report, "sending") as progress,
        ):
            shown = client.import_adapter(call, progress=progress, timeout_s=timeout)
        show_adapter(report, shown)


@app.command("list")
def list_adapters(
    *,
    prefix: Annotated[str, typer.Option("--prefix", help="Names that begin with this.")] = "",
    family: Annotated[str, typer.Option("--family", help="Made for this family.")] = "",
    stage: Annotated[str | None, typer.Option("--stage", help="base, refiner or both.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="lora, dora, conv, text_encoder or tokens.")
    ] = "",
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """List adapters by name."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        where = AdapterFilter(name_prefix=prefix, family=family, stage=stage, kind=kind)
        with connect_adapters(report, server, token_file=token_file) as client:
            found = list(client.list_adapters(where, timeout_s=timeout))
        table = Table("name", "kinds", "rank", "family", "stage", "MiB", "where", box=None)
        for one in found:
            table.add_row(
                escape(f"{one.name}:{one.tag}"),
                " ".join(one.kinds),
                str(one.max_rank),
                escape(one.family or "?"),
                one.stage,
                f"{one.size_bytes / MEBIBYTE:.1f}",
                place_of(one),
            )
        if not as_json:
            report.out.print(table if found else "[dim]no adapters[/]")
        report.answer({"adapters": [as_mapping(one) for one in found]})


@app.command("show")
def show(
    adapter: Adapter,
    *,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Show one adapter."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        with connect_adapters(report, server, token_file=token_file) as client:
            shown = client.get(adapter, timeout_s=timeout)
        show_adapter(report, shown)


@app.command("load")
def load(
    adapter: Adapter,
    *,
    force: Force = False,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Bring an adapter to the device and keep it there until it is unloaded."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        _need_server(server)
        with (
            connect_adapters(report, server, token_file=token_file) as client,
            report.waiting(f"loading {escape(adapter)}"),
        ):
            shown = client.load(adapter, force=force, timeout_s=timeout)
        show_adapter(report, shown)


@app.command("unload")
def unload(
    adapter: Adapter,
    *,
    evict: Annotated[
        bool, typer.Option("--evict", help="At once rather than when room is needed.")
    ] = False,
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Let go of an adapter that is kept on the device."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        _need_server(server)
        with connect_adapters(report, server, token_file=token_file) as client:
            shown = client.unload(adapter, evict=evict, timeout_s=timeout)
        show_adapter(report, shown)


@app.command("export")
def export(
    adapter: Adapter,
    *,
    target_format: Annotated[
        str, typer.Option("--format", help="bundle, diffusers, peft or kohya.")
    ] = "bundle",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A .safetensors file, or a folder.", show_default=False),
    ],
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapter as a file that other programs read; whole, or not at all."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        with (
            connect_adapters(report, server, token_file=token_file) as client,
            progress_bar(report, "receiving") as progress,
        ):
            files = client.export(
                adapter, out, target_format=target_format, progress=progress, timeout_s=timeout
            )
        tell_files(report, files)


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder of PEFT's.")],
    out: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder.")],
    *,
    target_format: Annotated[
        str, typer.Option("--to", help="bundle, diffusers, peft or kohya.", show_default=False)
    ],
    family: Family = "",
    stage: Stage = None,
    as_json: AsJson = False,
) -> None:
    """Convert a file without a server; what the format cannot hold is refused by name."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        need_extra("converting adapters")
        with report.waiting("converting"):
            files = convert_file(source, out, target_format, family=family, stage=stage)
        tell_files(report, files)


@app.command("remove")
def remove(
    adapter: Adapter,
    *,
    expected_digest: Annotated[
        str, typer.Option("--expected-digest", help="Only if the name points there.")
    ] = "",
    server: Server = None,
    token_file: TokenFile = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Take a name away; bytes stay while another name or a request has them."""
    with reporting(as_json=as_json, flags=FLAGS) as report:
        with connect_adapters(report, server, token_file=token_file) as client:
            client.delete(adapter, expected_digest=expected_digest, timeout_s=timeout)
        report.say(f"{escape(adapter)} is gone")
        report.answer({"removed": adapter})


def _need_server(server: str | None) -> None:
    """Check that a server is named which outlives the command.

    Raises:
        InvalidRequest: None is; an embedded one would end with all that it keeps.
    """
    if server is None:
        description = "is required: a server inside the command keeps nothing after it"
        raise InvalidRequest([FieldViolation(field="server", description=description)])
