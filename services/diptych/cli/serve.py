"""``diptych up`` and ``diptych serve``: run services until they are told to stop."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.embedded import model_sources, need_extra
from diptych.cli.options import BaseModelOption, RefinerModelOption
from diptych.cli.report import Report, reporting
from diptych.embedding_cache import settings as cache_settings
from diptych.inference.settings import Settings, load_settings
from diptych.rpc.running import run_until_signal, together
from diptych.telemetry.logging import configure_logging

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


@app.command("embedding-cache")
def serve_embedding_cache(
    *,
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    base: BaseModelOption = None,
    refiner: RefinerModelOption = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Folder of the embeddings.", file_okay=False)
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="s3://BUCKET/PREFIX that servers share.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    config: Config = None,
) -> None:
    """Encode texts and images once, keep the embeddings and hand them out over gRPC."""
    with reporting(as_json=False) as report:
        given = {
            "host": host,
            "port": port,
            "metrics_port": metrics_port,
            "dir": directory,
            "store": store,
            "device": device,
            "dtype": dtype,
        }
        own: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        own |= model_sources(base, refiner)
        settings = cache_settings.load_settings(config, {"cache": own})
        need_extra("serving embeddings", extra="cache")
        from diptych.embedding_cache.server import run_server

        report.note(_cache_line(settings))
        run_server(settings)


def up(
    *,
    config: Config = None,
    port: Port = None,
    cache_port: Annotated[
        int | None,
        typer.Option("--cache-port", help="gRPC port of the embedding cache; 0 takes a free one."),
    ] = None,
) -> None:
    """Run every service in this process: inference and the embedding cache."""
    with reporting(as_json=False) as report:
        settings = load_settings(config, {"inference": {} if port is None else {"port": port}})
        cached = cache_settings.load_settings(
            config, {"cache": {} if cache_port is None else {"port": cache_port}}
        )
        need_extra("serving")
        from diptych.embedding_cache.server import service as cache_service
        from diptych.inference.server import service as inference_service

        report.note(_inference_line(settings))
        report.note(_cache_line(cached))
        configure_logging(settings.log_level)
        both = together(inference_service(settings), cache_service(cached))
        grace_s = max(settings.inference.grace_s, cached.cache.grace_s)
        asyncio.run(run_until_signal(both, grace_s=grace_s))


def _run(report: Report, settings: Settings) -> None:
    need_extra("serving")
    from diptych.inference.server import run_server

    report.note(_inference_line(settings))
    run_server(settings)


def _inference_line(settings: Settings) -> str:
    own = settings.inference
    refiner = own.refiner_source() or own.refiner_peer or "none"
    return f"inference: base {own.base or 'none'}, refiner {refiner}, {own.host}:{own.port}"


def _cache_line(settings: cache_settings.Settings) -> str:
    own = settings.cache
    place = own.store or own.dir or settings.home / "embeddings"
    return f"embedding cache: base {own.base or 'none'}, in {place}, {own.host}:{own.port}"
