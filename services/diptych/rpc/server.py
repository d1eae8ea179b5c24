"""A gRPC server as every service of ours runs it: health, reflection, limits, drain."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from diptych.errors import FieldViolation, SettingInvalid
from diptych.rpc.auth import Authenticate, Trust, everyone
from diptych.rpc.channel import MAX_MESSAGE_BYTES
from diptych.rpc.drain import Gate
from diptych.rpc.interceptors import CallInterceptor, OnCall

__all__ = ["Probe", "RpcServer", "ServerConfig"]

Servicer = TypeVar("Servicer")

_aio_health: Any = health.aio  # type: ignore[attr-defined] # the stubs know only the threaded one

SETTLE_S: Final = 1.0
"""Time for the last statuses to reach their clients once every call has ended."""


class Probe(enum.StrEnum):
    """Health service names that probes ask for.

    The empty name and the full name of each service answer as ``READINESS``.
    """

    STARTUP = "startup"
    """Weights are loaded and warmed; never taken back."""
    READINESS = "readiness"
    """New calls are welcome."""
    LIVENESS = "liveness"
    """The process can still do its work; does not depend on load or on other servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where a server listens and the limits of its connections."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0 takes a free one, see ``RpcServer.port``."""
    health_port: int | None = None
    """Plaintext port for probes alone; None is none, 0 takes a free one."""
    credentials: grpc.ServerCredentials | None = None
    """None is plaintext. Never applies to ``health_port``."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_connection_age_s: float = 600.0
    """After this a client is asked to connect anew, and so finds new replicas."""
    max_connection_age_grace_s: float = 3600.0
    """How long a call may outlive its connection's age."""
    min_ping_interval_s: float = 30.0
    """Clients that ping faster are disconnected."""


class RpcServer:
    """A server with health, reflection and one interceptor around every call.

    Belongs to the event loop it was made in. Use: ``add_service``, ``start``, ``set_health``;
    to end, ``begin_drain`` when no new call is wanted and ``stop``.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        authenticate: Authenticate = everyone,
        trust: Trust | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        """Prepare to listen as ``config`` says; nothing is bound before ``start``."""
        self._config = config
        self._gate = Gate()
        interceptor = CallInterceptor(
            self._gate, authenticate=authenticate, trust=trust, on_call=on_call
        )
        self._server = grpc.aio.server(interceptors=[interceptor], options=_options(config))
        self._probes: grpc.aio.Server | None = None
        self._health: Any = _aio_health.HealthServicer()
        self._names: list[str] = []
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = 0
        """Port of the services, once started."""
        self.health_port: int | None = None
        """Port of the plaintext probes, once started and if there is one."""

    def add_service(
        self, name: str, servicer: Servicer, register: Callable[[Servicer, Any], None]
    ) -> None:
        """Serve ``servicer`` under its full ``name``; ``register`` is the generated function."""
        register(servicer, self._server)
        self._names.append(name)

    async def start(self) -> None:
        """Bind and listen; startup and readiness are NOT_SERVING until set.

        Raises:
            SettingInvalid: a port cannot be bound.
        """
        config = self._config
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = _bind(self._server, config, field="port", port=config.port)
        if config.health_port is not None:
            self._probes = grpc.aio.server()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
            plain = ServerConfig(host=config.host)
            self.health_port = _bind(
                self._probes, plain, field="health_port", port=config.health_port
            )
        await self.set_health(Probe.STARTUP, serving=False)
        await self.set_health(Probe.READINESS, serving=False)
        await self.set_health(Probe.LIVENESS, serving=True)
        await self._server.start()
        if self._probes is not None:
            await self._probes.start()

    async def set_health(self, probe: Probe, *, serving: bool) -> None:
        """Answer ``probe`` with SERVING or NOT_SERVING from now on."""
        answers = health_pb2.HealthCheckResponse
        status = answers.SERVING if serving else answers.NOT_SERVING
        await self._health.set(probe.value, status)
        if probe is Probe.READINESS:
            for name in ("", *self._names):
                await self._health.set(name, status)

    async def begin_drain(self) -> None:
        """Turn readiness off and refuse new calls with ``Draining``; running calls go on."""
        await self.set_health(Probe.READINESS, serving=False)
        self._gate.begin_closing()

    async def stop(self, grace_s: float) -> None:
        """Drain, give running calls ``grace_s`` to end, hand back the rest and close the ports.

        A call that is handed back ends with UNAVAILABLE and RetryInfo.
        """
        await self.begin_drain()
        await self._gate.close(grace_s)
        await self._server.stop(SETTLE_S)
        if self._probes is not None:
            await self._probes.stop(SETTLE_S)

    @property
    def num_running(self) -> int:
        """How many calls of our services run."""
        return self._gate.num_running

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop without grace."""
        await self.stop(0.0)


def _bind(server: grpc.aio.Server, config: ServerConfig, *, field: str, port: int) -> int:
    """Bind ``server`` to ``port`` and return the port it got."""
    address = f"{config.host}:{port}"
    try:
        if config.credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, config.credentials)
    except RuntimeError as error:
        problem = f"cannot listen on {address}"
        raise SettingInvalid([FieldViolation(field=field, description=problem)]) from error


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return gRPC's server arguments for ``config``."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_connection_age_ms", round(config.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(config.max_connection_age_grace_s * 1000)),
        (
            "grpc.http2.min_recv_ping_interval_without_data_ms",
            round(config.min_ping_interval_s * 1000),
        ),
        ("grpc.so_reuseport", 0),
    ]
