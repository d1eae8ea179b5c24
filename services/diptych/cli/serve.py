"""``diptych up`` and ``diptych serve``: run services until they are told to stop."""

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from diptych.cli.embedded import model_sources, need_extra
from diptych.cli.options import BaseModelOption, RefinerModelOption
from diptych.cli.report import Report, reporting
from diptych.embedding_cache import settings as cache_settings
from diptych.inference.settings import Settings, load_settings
from diptych.rpc.running import run_until_signal, together
from diptych.telemetry.logging import configure_logging
from diptych.training import settings as training_settings

__all__ = ["EVERY_INTERFACE", "app", "up"]

TRAINING_MODULES: Final = ("torch", "diffusers", "transformers", "peft", "accelerate", "sqlalchemy")
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
EVERY_INTERFACE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - nothing is bound to it

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


DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder below which jobs may name images.", exists=True, file_okay=False
    ),
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


@app.command("training")
def serve_training(
    *,
    host: Host = None,
    port: Port = None,
    metrics_port: MetricsPort = None,
    cache_address: Annotated[
        str | None, typer.Option("--cache", help="HOST:PORT of the embedding cache.")
    ] = None,
    ledger_url: Annotated[
        str | None,
        typer.Option(
            "--ledger", help="Database of jobs, postgresql+psycopg://... or sqlite:///..."
        ),
    ] = None,
    data: DataFolder = None,
    device: Device = None,
    config: Config = None,
) -> None:
    """Take fine-tunes as jobs and run them; an embedding cache must run too."""
    with reporting(as_json=False) as report:
        given = {
            "host": host,
            "port": port,
            "metrics_port": metrics_port,
            "cache_address": cache_address,
            "ledger_url": ledger_url,
            "dataset_dir": data,
            "device": device,
        }
        own: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        settings = training_settings.load_settings(config, {"training": own})
        need_extra("training", extra="training", modules=TRAINING_MODULES)
        from diptych.training.server import run_server

        report.note(_training_line(settings))
        run_server(settings)


def up(
    *,
    config: Config = None,
    port: Port = None,
    cache_port: Annotated[
        int | None,
        typer.Option("--cache-port", help="gRPC port of the embedding cache; 0 takes a free one."),
    ] = None,
    training_port: Annotated[
        int | None,
        typer.Option("--training-port", help="gRPC port of training; 0 takes a free one."),
    ] = None,
    metrics_port: MetricsPort = None,
    cache_metrics_port: Annotated[
        int | None,
        typer.Option("--cache-metrics-port", help="As --metrics-port, of the embedding cache."),
    ] = None,
    training_metrics_port: Annotated[
        int | None,
        typer.Option("--training-metrics-port", help="As --metrics-port, of training."),
    ] = None,
    data: DataFolder = None,
) -> None:
    """Run every service in this process: inference, the embedding cache and training."""
    with reporting(as_json=False) as report:
        own = _given(port=port, metrics_port=metrics_port)
        settings = load_settings(config, {"inference": own})
        cached, trained = _settings_of_one_process(
            settings,
            config,
            cached=_given(port=cache_port, metrics_port=cache_metrics_port),
            trained=_given(port=training_port, metrics_port=training_metrics_port),
            data=data,
        )
        need_extra("serving")
        need_extra("training", extra="training", modules=TRAINING_MODULES)
        from diptych.embedding_cache.server import service as cache_service
        from diptych.inference.server import service as inference_service
        from diptych.training.server import service as training_service

        report.note(_inference_line(settings))
        report.note(_cache_line(cached))
        report.note(_training_line(trained))
        configure_logging(settings.log_level)
        services = (inference_service(settings), cache_service(cached), training_service(trained))
        grace_s = max(settings.inference.grace_s, cached.cache.grace_s, trained.training.grace_s)
        asyncio.run(run_until_signal(together(*services), grace_s=grace_s))


def _settings_of_one_process(
    settings: Settings,
    config: Path | None,
    *,
    cached: Mapping[str, object],
    trained: Mapping[str, object],
    data: Path | None,
) -> tuple[cache_settings.Settings, training_settings.Settings]:
    """Return settings with which training finds the cache, and both the images.

    Unless told otherwise, images and models may lie below the current folder, if only this machine
    can call: whoever calls could read them anyway.
    """
    first = cache_settings.load_settings(config, {"cache": cached}).cache
    port = first.port or _free_port(first.host)
    host = "127.0.0.1" if first.host in EVERY_INTERFACE else first.host
    own = training_settings.load_settings(
        config, {"training": {**trained, "cache_address": f"{host}:{port}"}}
    ).training
    here = Path.cwd() if {first.host, own.host} <= LOOPBACK else None
    found = {"port": port, "dataset_dir": data or first.dataset_dir or here}
    asked = {
        "cache_address": own.cache_address,
        "dataset_dir": data or own.dataset_dir or here,
        "model_dir": own.model_dir or here,
        "adapters_store": own.adapters_store or settings.inference.adapters_store,
    }
    return (
        cache_settings.load_settings(config, {"cache": {**cached, **_given(**found)}}),
        training_settings.load_settings(config, {"training": {**trained, **_given(**asked)}}),
    )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _given(**values: object) -> dict[str, object]:
    """Return the settings that flags gave."""
    return {name: value for name, value in values.items() if value is not None}


def _run(report: Report, settings: Settings) -> None:
    need_extra("serving")
    from diptych.inference.server import run_server

    report.note(_inference_line(settings))
    run_server(settings)


def _inference_line(settings: Settings) -> str:
    own = settings.inference
    refiner = own.refiner_source() or own.refiner_peer or "none"
    return f"inference: base {own.base or 'none'}, refiner {refiner}, {own.host}:{own.port}"


def _training_line(settings: training_settings.Settings) -> str:
    own = settings.training
    images = own.dataset_dir or "no folder"
    where = f"{own.host}:{own.port}"
    return f"training: images in {images}, embeddings of {own.cache_address}, {where}"


def _cache_line(settings: cache_settings.Settings) -> str:
    own = settings.cache
    place = own.store or own.dir or settings.home / "embeddings"
    return f"embedding cache: base {own.base or 'none'}, in {place}, {own.host}:{own.port}"
