"""The inference service as a whole: ports, engine, metrics, and the order they come and go in.

``run_server`` owns a process until SIGTERM; ``BackgroundServer`` is the same service in a thread
of another program; both run ``serve``.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from diptych.clients.inference import AsyncInferenceClient, ClientConfig
from diptych.errors import (
    EngineFault,
    ExtraMissing,
)
from diptych.inference.adapter_counts import adapter_counts
from diptych.inference.adapters_service import ADAPTER_SERVICE_NAME, AdapterService, Pins
from diptych.inference.allocator import Rest, trim_heap
from diptych.inference.hosted import Hosted
from diptych.inference.orders import Catalog
from diptych.inference.peer import join_peer
from diptych.inference.service import SERVICE_NAME, Hosting, InferenceService, Submits
from diptych.inference.settings import InferenceSettings, Settings
from diptych.rpc.auth import TokenFile, Trust, everyone
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.running import Ports, Serve, ServingThread, run_until_signal, unless
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.storage.tiers import TierStats
from diptych.telemetry.logging import configure_logging
from diptych.telemetry.metrics import InferenceMetrics
from diptych.telemetry.metrics_port import open_metrics
from diptych.telemetry.tracing import NullTracer, Tracer, otlp_tracer
from diptych.v1.adapters_pb2_grpc import add_AdapterServiceServicer_to_server
from diptych.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

__all__ = [
    "BackgroundServer",
    "Load",
    "Loaded",
    "RunningEngine",
    "run_server",
    "serve",
    "service",
]

WATCH_S: Final = 1.0
"""How often the engine's thread is looked at."""
HAND_BACK_S: Final = 2.0
"""The engine hands requests back at the end of the grace period; calls get this much longer."""
HANDED_OVER: Final = frozenset({"Refine"})
"""RPCs that a trusted peer makes for tenants of its own."""

_log = logging.getLogger(__name__)


class RunningEngine(Submits, Pins, Protocol):
    """An engine and its life."""

    def start(self) -> None:
        """Start its thread."""

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until it is warm; raise EngineFault if its thread has ended."""

    def drain(self, grace_s: float) -> None:
        """Refuse requests, let those that run finish in time, hand back the others."""

    def stop(self) -> None:
        """End its threads."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Experts on their device behind an engine that has not started yet."""

    engine: RunningEngine
    hosted: Hosted
    catalog: Catalog
    num_slots: int
    tiers: Callable[[], Mapping[str, TierStats]] = dict
    """What the tiers of adapters behind the device hold and did: ``host``, maybe ``disk``."""
    close: Callable[[], None] = _nothing
    """Ends what the engine called, once the engine has stopped."""


Load = Callable[[Settings, InferenceMetrics], Loaded]
"""Loads what the settings name; takes seconds to minutes, in a thread."""


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    ready: Callable[[Ports], None],
    load: Load,
) -> bool:
    """Serve until ``stop`` is set, then drain; return False if that was while still loading.

    Health answers from the beginning; calls are refused with ``Starting`` until the engine is
    warm, which is when ``ready`` is called. Nothing can interrupt what loads: its thread goes on
    after False was returned, and ends by itself.

    Raises:
        DiptychError: The settings name what cannot be loaded or bound, or the engine failed.
    """
    own = settings.inference
    metrics = InferenceMetrics(CollectorRegistry())
    async with contextlib.AsyncExitStack() as stack:
        tracer = _tracer(settings)
        stack.callback(tracer.close)
        painting = InferenceService(tracer=tracer, on_image=metrics.on_image)
        rpc = _rpc_server(own, metrics)
        rpc.add_service(SERVICE_NAME, painting, add_InferenceServiceServicer_to_server)
        adapters = AdapterService(own.limits())
        stack.callback(adapters.close)
        rpc.add_service(ADAPTER_SERVICE_NAME, adapters, add_AdapterServiceServicer_to_server)
        metrics_server = open_metrics(
            metrics.registry, host=own.host, port=own.metrics_port, field="inference.metrics_port"
        )
        if metrics_server is not None:
            stack.callback(metrics_server.close)
        await rpc.start()
        stack.push_async_callback(rpc.stop, 0.0)
        _log.info("loading", extra={"host": own.host, "port": rpc.port})
        bring_up = partial(_bring_up, load, settings, metrics, stop)
        loaded = await unless(stop, asyncio.to_thread(bring_up))
        if loaded is None:
            return False
        stack.push_async_callback(asyncio.to_thread, loaded.close)
        stack.push_async_callback(asyncio.to_thread, loaded.engine.stop)
        hosting = await unless(stop, _hosting(loaded, own, stack))
        if hosting is None:
            return True
        painting.open(hosting)
        adapters.open(loaded.catalog, loaded.engine)
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
        await _until_stopped(stop, loaded.engine, rpc)
        await _drain(rpc, loaded.engine, own.grace_s)
        return True


def run_server(settings: Settings, load: Load | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT; a second one exits at once.

    One that comes while weights load ends the process then and there, with exit status 0.

    Raises:
        DiptychError: as ``serve``.
    """
    configure_logging(settings.log_level)
    asyncio.run(run_until_signal(service(settings, load), grace_s=settings.inference.grace_s))


class BackgroundServer(ServingThread):
    """The service in a thread of this program: ``start``, call ``address``, ``stop``."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Prepare to serve as ``settings`` say; nothing runs before ``start``."""
        super().__init__(service(settings, load))


def service(settings: Settings, load: Load | None = None) -> Serve:
    """Return the service as ``rpc.running`` runs it."""

    async def serving(stop: asyncio.Event, ready: Callable[[Ports], None]) -> bool:
        return await serve(settings, stop, ready=ready, load=load or _load_from_settings)

    return serving


def _bring_up(
    load: Load, settings: Settings, metrics: InferenceMetrics, stop: asyncio.Event
) -> Loaded:
    """Load and warm up; return an engine that runs, or has ended if ``stop`` was set meanwhile."""
    loaded = load(settings, metrics)
    if stop.is_set():
        return loaded
    loaded.engine.start()
    _watch_load(metrics, loaded)
    try:
        loaded.engine.wait_ready()
    except EngineFault:
        loaded.engine.stop()
        raise
    if stop.is_set():
        loaded.engine.stop()
    return loaded


def _load_from_settings(settings: Settings, metrics: InferenceMetrics) -> Loaded:
    try:
        from diptych.inference.loading import load_engine  # noqa: PLC0415 - torch
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="inference", needed_for="serving") from missing
    return load_engine(settings, metrics)


def _tracer(settings: Settings) -> Tracer:
    if settings.otlp_endpoint is None:
        return NullTracer()
    return otlp_tracer(settings.otlp_endpoint, service="diptych-inference")


def _rpc_server(own: InferenceSettings, metrics: InferenceMetrics) -> RpcServer:
    config = ServerConfig(host=own.host, port=own.port, health_port=own.health_port)
    tokens = own.auth_tokens_file
    authenticate = everyone if tokens is None else TokenFile(tokens)
    trust = Trust(peers=frozenset(own.trusted_peers), methods=HANDED_OVER)
    return RpcServer(config, authenticate=authenticate, trust=trust, on_call=metrics.on_call)


def _watch_load(metrics: InferenceMetrics, loaded: Loaded) -> None:
    """Let scrapes read the engine's counts."""
    stats = loaded.engine.stats
    metrics.watch_load(
        running=lambda: stats().running,
        waiting=lambda: stats().waiting,
        slots=lambda: loaded.num_slots,
        slots_used=lambda: loaded.num_slots - stats().slots_free,
    )
    metrics.watch_adapters(lambda: adapter_counts(stats().adapters, loaded.tiers()))
    experts = {"base": loaded.hosted.base, "refiner": loaded.hosted.refiner}
    models = {name: expert.model for name, expert in experts.items() if expert is not None}
    metrics.describe(version=loaded.hosted.version, **models)


async def _hosting(
    loaded: Loaded, own: InferenceSettings, stack: contextlib.AsyncExitStack
) -> Hosting:
    """Return what calls are served from, once the peer has answered where there is one."""
    if own.refiner_peer is None:
        return Hosting(engine=loaded.engine, hosted=loaded.hosted, catalog=loaded.catalog)
    token = own.refiner_peer_token
    client = AsyncInferenceClient(
        ClientConfig(
            channel=ChannelConfig(address=own.refiner_peer),
            token=token.get_secret_value() if token is not None else None,
        )
    )
    stack.push_async_callback(client.close)
    hosted, peer = await join_peer(
        client, loaded.hosted, address=own.refiner_peer, clock=time.monotonic
    )
    return Hosting(engine=loaded.engine, hosted=hosted, catalog=loaded.catalog, peer=peer)


async def _until_stopped(stop: asyncio.Event, engine: RunningEngine, rpc: RpcServer) -> None:
    """Return when ``stop`` is set; if the engine's thread dies, tell the probes.

    Once the engine has come to rest, the heap's free pages go back to the system.
    """
    rest = Rest()
    while not stop.is_set():
        try:
            engine.wait_ready(0.0)
        except EngineFault:
            await rpc.set_health(Probe.READINESS, serving=False)
            await rpc.set_health(Probe.LIVENESS, serving=False)
        stats = engine.stats()
        busy = stats.running + stats.waiting + stats.decoding > 0
        if rest.reached(stats.num_ticks, busy=busy):
            await asyncio.to_thread(trim_heap)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), WATCH_S)


async def _drain(rpc: RpcServer, engine: RunningEngine, grace_s: float) -> None:
    """Refuse new calls, let running ones end within ``grace_s``, hand back the rest."""
    await rpc.begin_drain()
    async with asyncio.TaskGroup() as ending:
        ending.create_task(asyncio.to_thread(engine.drain, grace_s))
        ending.create_task(rpc.stop(grace_s + HAND_BACK_S))
