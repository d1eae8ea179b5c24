"""The training service as a whole: ports, ledger, supervisor, and the order they come and go.

``run_server`` owns a process until SIGTERM; ``BackgroundTraining`` is the same service in a thread
of another program; both run ``serve``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from diptych.rpc.auth import TokenFile, everyone
from diptych.rpc.running import Ports, Serve, ServingThread, run_until_signal, unless
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.telemetry.logging import configure_logging
from diptych.telemetry.metrics_port import open_metrics
from diptych.telemetry.training_metrics import TrainingMetrics, TrainingReading
from diptych.training.service import TRAINING_SERVICE_NAME, Hosting, TrainingService
from diptych.training.settings import Settings
from diptych.v1.training_pb2_grpc import add_TrainingServiceServicer_to_server

__all__ = ["BackgroundTraining", "Load", "Loaded", "run_server", "serve", "service"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An open ledger, and an owner of jobs at work."""

    hosting: Hosting
    version: str
    read: Callable[[], TrainingReading]
    """What a scrape reads."""
    begin_drain: Callable[[], None]
    """Begins to hand jobs back; returns at once."""
    close: Callable[[], None]
    """Returns when every job is handed back."""


Load = Callable[[Settings, TrainingMetrics], Loaded]
"""Opens what the settings name; in a thread."""


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    ready: Callable[[Ports], None],
    load: Load,
) -> bool:
    """Serve until ``stop`` is set, then drain; return False if that was while still loading.

    Raises:
        DiptychError: The settings name what cannot be opened or bound.
    """
    own = settings.training
    metrics = TrainingMetrics(CollectorRegistry())
    async with contextlib.AsyncExitStack() as stack:
        training = TrainingService()
        rpc = RpcServer(
            ServerConfig(host=own.host, port=own.port, health_port=own.health_port),
            authenticate=everyone
            if own.auth_tokens_file is None
            else TokenFile(own.auth_tokens_file),
            on_call=metrics.on_call,
        )
        rpc.add_service(TRAINING_SERVICE_NAME, training, add_TrainingServiceServicer_to_server)
        metrics_server = open_metrics(
            metrics.registry, host=own.host, port=own.metrics_port, field="training.metrics_port"
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
        stack.push_async_callback(asyncio.to_thread, training.close)
        metrics.watch(loaded.read)
        metrics.describe(version=loaded.version)
        training.open(loaded.hosting)
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
        loaded.begin_drain()
        training.begin_drain()
        await rpc.stop(own.grace_s)
        return True


def run_server(settings: Settings, load: Load | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT; a second one exits at once.

    Raises:
        DiptychError: as ``serve``.
    """
    configure_logging(settings.log_level)
    asyncio.run(run_until_signal(service(settings, load), grace_s=settings.training.grace_s))


class BackgroundTraining(ServingThread):
    """The service in a thread of this program: ``start``, call ``address``, ``stop``."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Prepare to serve as ``settings`` say; nothing runs before ``start``."""
        super().__init__(service(settings, load))


def service(settings: Settings, load: Load | None = None) -> Serve:
    """Return the service as ``rpc.running`` runs it."""

    async def serving(stop: asyncio.Event, ready: Callable[[Ports], None]) -> bool:
        return await serve(settings, stop, ready=ready, load=load or _load_from_settings)

    return serving


def _load_from_settings(settings: Settings, metrics: TrainingMetrics) -> Loaded:
    from diptych.training.loading import load_training  # noqa: PLC0415 - it imports this module

    return load_training(settings, metrics)
