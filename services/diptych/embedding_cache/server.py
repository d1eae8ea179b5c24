"""The embedding-cache service as a whole: ports, encoders, stores, and the order they come and go.

``run_server`` owns a process until SIGTERM; ``BackgroundCache`` is the same service in a thread of
another program; both run ``serve``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from diptych.embedding_cache.ports import Hosting
from diptych.embedding_cache.service import CACHE_SERVICE_NAME, EmbeddingCacheService
from diptych.embedding_cache.settings import Settings
from diptych.errors import ExtraMissing
from diptych.rpc.auth import TokenFile, everyone
from diptych.rpc.running import Ports, ServingThread, run_until_signal, unless
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.telemetry.cache_metrics import CacheMetrics, CacheReading
from diptych.telemetry.logging import configure_logging
from diptych.telemetry.metrics_port import open_metrics
from diptych.v1.embedding_cache_pb2_grpc import add_EmbeddingCacheServiceServicer_to_server

__all__ = ["BackgroundCache", "Load", "Loaded", "run_server", "serve"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Encoders on their device and stores that open when they are asked for."""

    hosting: Hosting
    models: dict[str, str]
    """Stage to the model whose encoders it uses."""
    version: str
    read: Callable[[], CacheReading]
    """What a scrape reads."""
    close: Callable[[], None]
    """Ends the threads and makes everything written last."""


Load = Callable[[Settings, CacheMetrics], Loaded]
"""Loads what the settings name; takes seconds to minutes, in a thread."""


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    ready: Callable[[Ports], None],
    load: Load,
) -> bool:
    """Serve until ``stop`` is set, then drain; return False if that was while still loading.

    Raises:
        DiptychError: The settings name what cannot be loaded or bound.
    """
    own = settings.cache
    metrics = CacheMetrics(CollectorRegistry())
    async with contextlib.AsyncExitStack() as stack:
        service = EmbeddingCacheService()
        rpc = RpcServer(
            ServerConfig(host=own.host, port=own.port, health_port=own.health_port),
            authenticate=everyone
            if own.auth_tokens_file is None
            else TokenFile(own.auth_tokens_file),
            on_call=metrics.on_call,
        )
        rpc.add_service(CACHE_SERVICE_NAME, service, add_EmbeddingCacheServiceServicer_to_server)
        metrics_server = open_metrics(
            metrics.registry, host=own.host, port=own.metrics_port, field="cache.metrics_port"
        )
        if metrics_server is not None:
            stack.callback(metrics_server.close)
        await rpc.start()
        stack.push_async_callback(rpc.stop, 0.0)
        _log.info("loading", extra={"host": own.host, "port": rpc.port})
        loaded = await unless(stop, asyncio.to_thread(load, settings, metrics))
        if loaded is None:
            return False
        stack.push_async_callback(asyncio.to_thread, loaded.close)
        stack.push_async_callback(asyncio.to_thread, service.close)
        metrics.watch(loaded.read)
        metrics.describe(version=loaded.version, **loaded.models)
        service.open(loaded.hosting)
        await rpc.set_health(Probe.STARTUP, serving=True)
        await rpc.set_health(Probe.READINESS, serving=True)
        ready(
            Ports(
                host=own.host,
                port=rpc.port,
                metrics_port=metrics_server.port if metrics_server else None,
                health_port=rpc.health_port,
            )
        )
        await stop.wait()
        await rpc.stop(own.grace_s)
        return True


def run_server(settings: Settings, load: Load | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT; a second one exits at once.

    Raises:
        DiptychError: as ``serve``.
    """
    configure_logging(settings.log_level)
    serving = partial(_serving, settings, load or _load_from_settings)
    asyncio.run(run_until_signal(serving, grace_s=settings.cache.grace_s))


class BackgroundCache(ServingThread):
    """The service in a thread of this program: ``start``, call ``address``, ``stop``."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Prepare to serve as ``settings`` say; nothing runs before ``start``."""
        super().__init__(partial(_serving, settings, load or _load_from_settings))


async def _serving(
    settings: Settings, load: Load, stop: asyncio.Event, ready: Callable[[Ports], None]
) -> bool:
    return await serve(settings, stop, ready=ready, load=load)


def _load_from_settings(settings: Settings, metrics: CacheMetrics) -> Loaded:
    try:
        from diptych.embedding_cache.loading import load_cache  # noqa: PLC0415 - torch
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="cache", needed_for="serving embeddings") from missing
    return load_cache(settings, metrics)
