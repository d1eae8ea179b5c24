"""``diptych up`` and ``diptych serve``: run services until they are told to stop."""

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.embedded import model_sources, need_extra
from diptych.cli.options import BaseModelOption, RefinerModelOption
from diptych.cli.report import Report, reporting
from diptych.inference.settings import Settings, load_settings

__all__ = ["app", "up"]

app = typer.Typer(no_args_is_help=True, help="Run one service until SIGTERM.")

Port = Annotated[int | None, typer.Option("--port", help="gRPC port; 0 takes a free one.")]
Host = Annotated[str | None, typer.Option("--host", help="Interface; loopback otherwise.")]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", help="HTTP port of /metrics; 0 takes a free one.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings.", dir_okay=False)
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel="Models"),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="auto, float32, bfloat16 or float16.", rich_help_panel="Models"),
]


PreviewDecoder = Annotated[
    str | None,
    typer.Option(
        "--preview-decoder",
        help="TAESD for previews: a folder, a Hugging Face id or s3://.",
        rich_help_panel="Models",
    ),
]


@app.command("inference")
def serve_inference(
    *,
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    preview_decoder: PreviewDecoder = None,
    device: Device = None,
    dtype: Dtype = None,
    config: Config = None,
) -> None:
    """Serve pictures over gRPC; flags win over DIPTYCH_* variables, those over --config."""
    with reporting(as_json=False) as report:
        given = {
            "host": host,
            "port": port,
            "metrics_port": metrics_port,
            "preview_decoder": preview_decoder,
            "device": device,
            "dtype": dtype,
        }
        own: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        own |= model_sources(base, refiner)
        _run(report, load_settings(config, {"inference": own}))


def up(*, config: Config = None, port: Port = None) -> None:
    """Run every service in this process; today that is inference."""
    with reporting(as_json=False) as report:
        own = {} if port is None else {"port": port}
        _run(report, load_settings(config, {"inference": own}))


def _run(report: Report, settings: Settings) -> None:
    need_extra("serving")
    from diptych.inference.server import run_server

    own = settings.inference
    refiner = own.refiner_source() or own.refiner_peer or "none"
    report.note(f"inference: base {own.base or 'none'}, refiner {refiner}, {own.host}:{own.port}")
    run_server(settings)
