"""The inference service as a whole: ports, engine, metrics, and the order they come and go in.

``run_server`` owns a process until SIGTERM; ``BackgroundServer`` is the same service in a thread
of another program; both run ``serve``.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry

from diptych.clients.inference import AsyncInferenceClient, ClientConfig
from diptych.errors import (
    EngineFault,
    ExtraMissing,
    FieldViolation,
    SettingInvalid,
    Unavailable,
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
from diptych.rpc.server import Probe, RpcServer, ServerConfig
from diptych.storage.tiers import TierStats
from diptych.telemetry.logging import configure_logging
from diptych.telemetry.metrics import InferenceMetrics, MetricsServer
from diptych.telemetry.tracing import NullTracer, Tracer, otlp_tracer
from diptych.v1.adapters_pb2_grpc import add_AdapterServiceServicer_to_server
from diptych.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

__all__ = [
    "BackgroundServer",
    "Load",
    "Loaded",
    "Ports",
    "RunningEngine",
    "run_server",
    "serve",
]

WATCH_S: Final = 1.0
"""How often the engine's thread is looked at."""
HAND_BACK_S: Final = 2.0
"""The engine hands requests back at the end of the grace period; calls get this much longer."""
FORCED_EXIT: Final = 130
HANDED_OVER: Final = frozenset({"Refine"})
"""RPCs that a trusted peer makes for tenants of its own."""

Result = TypeVar("Result")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Experts on their device behind an engine that has not started yet."""

    engine: RunningEngine
    hosted: Hosted
    catalog: Catalog
    num_slots: int
    tiers: Callable[[], Mapping[str, TierStats]] = dict
    """What the tiers of adapters behind the device hold and did: ``host``, maybe ``disk``."""


Load = Callable[[Settings, InferenceMetrics], Loaded]
"""Loads what the settings name; takes seconds to minutes, in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens."""

    host: str
    port: int
    metrics_port: int | None
    health_port: int | None


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
        service = InferenceService(tracer=tracer, on_image=metrics.on_image)
        rpc = _rpc_server(own, metrics)
        rpc.add_service(SERVICE_NAME, service, add_InferenceServiceServicer_to_server)
        adapters = AdapterService(own.limits())
        stack.callback(adapters.close)
        rpc.add_service(ADAPTER_SERVICE_NAME, adapters, add_AdapterServiceServicer_to_server)
        metrics_server = _metrics_server(own, metrics, stack)
        await rpc.start()
        stack.push_async_callback(rpc.stop, 0.0)
        _log.info("loading", extra={"host": own.host, "port": rpc.port})
        bring_up = partial(_bring_up, load, settings, metrics, stop)
        loaded = await _unless(stop, asyncio.to_thread(bring_up))
        if loaded is None:
            return False
        stack.push_async_callback(asyncio.to_thread, loaded.engine.stop)
        hosting = await _unless(stop, _hosting(loaded, own, stack))
        if hosting is None:
            return True
        service.open(hosting)
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
    asyncio.run(_serve_until_signal(settings, load or _load_from_settings))


class BackgroundServer:
    """The service in a thread of this program: ``start``, call ``address``, ``stop``."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Prepare to serve as ``settings`` say; nothing runs before ``start``."""
        self._settings = settings
        self._load = load or _load_from_settings
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "diptych-server")
        self._ready: concurrent.futures.Future[Ports] = concurrent.futures.Future()
        self._stop: Callable[[], None] | None = None
        self._ended: concurrent.futures.Future[None] | None = None

    def start(self, *, timeout_s: float) -> None:
        """Return when the server is ready.

        Raises:
            DiptychError: as ``serve``; ``Unavailable`` when it took longer than ``timeout_s``.
        """
        self._ended = self._thread.submit(asyncio.run, self._main())
        either: list[concurrent.futures.Future[Any]] = [self._ready, self._ended]
        concurrent.futures.wait(either, timeout_s, return_when=concurrent.futures.FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        if not self._ready.done():
            raise Unavailable(f"the embedded server was not ready within {timeout_s:g} s")

    @property
    def ports(self) -> Ports:
        """Where it listens, once started."""
        return self._ready.result(timeout=0)

    @property
    def address(self) -> str:
        """``host:port`` to call, once started."""
        return f"{self.ports.host}:{self.ports.port}"

    def stop(self) -> None:
        """Drain and end the thread."""
        if self._stop is not None:
            self._stop()
        if self._ended is not None:
            self._ended.result()
        self._thread.shutdown()

    async def _main(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = partial(_call_in, loop, stop.set)
        await serve(self._settings, stop, ready=self._ready.set_result, load=self._load)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call ``function`` in ``loop``; when that has ended there is nothing left to call."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


async def _serve_until_signal(settings: Settings, load: Load) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            _log.warning("second signal, exiting at once")
            os._exit(FORCED_EXIT)
        _log.info("draining", extra={"grace_s": settings.inference.grace_s})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    came_up = await serve(settings, stop, ready=_log_ready, load=load)
    _log.info("stopped")
    if not came_up:
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the thread that loads


def _log_ready(ports: Ports) -> None:
    fields = {"host": ports.host, "port": ports.port, "metrics_port": ports.metrics_port}
    _log.info("ready", extra=fields | {"health_port": ports.health_port})


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


def _metrics_server(
    own: InferenceSettings, metrics: InferenceMetrics, stack: contextlib.AsyncExitStack
) -> MetricsServer | None:
    """Return the open /metrics port, None where none is wanted; ``stack`` closes it."""
    if own.metrics_port is None:
        return None
    try:
        server = MetricsServer(metrics.registry, host=own.host, port=own.metrics_port)
    except OSError as error:
        description = f"{own.host}:{own.metrics_port} cannot be bound: {error}"
        violation = FieldViolation(field="inference.metrics_port", description=description)
        raise SettingInvalid([violation]) from error
    stack.callback(server.close)
    return server


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


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, Result]) -> Result | None:
    """Return what ``work`` comes to, None when ``stop`` is set before."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()


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
