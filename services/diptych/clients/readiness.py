"""Waiting for a server to take calls."""

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diptych.clients.config import ClientConfig, meaning
from diptych.errors import DeadlineExceeded, DiptychError, ServerUnreachable

__all__ = ["wait_until_ready", "wait_until_ready_async"]

READY: Final = "readiness"
"""Name under which a server's health says whether it takes calls."""


def wait_until_ready(channel: grpc.Channel, config: ClientConfig, *, timeout_s: float) -> None:
    """Return as soon as the server says it takes calls, connecting to it if need be.

    Raises:
        DiptychError: It did not say so within ``timeout_s``.
    """
    watch: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=READY)
    answers = watch.Watch(request, timeout=timeout_s, wait_for_ready=True)
    try:
        for answer in answers:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
    except grpc.RpcError as error:
        raise _not_ready(error, config, timeout_s) from error
    finally:
        answers.cancel()
    raise _ended(config)


async def wait_until_ready_async(
    channel: grpc.aio.Channel, config: ClientConfig, *, timeout_s: float
) -> None:
    """Return when ``wait_until_ready`` would."""
    watch: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=READY)
    answers = watch.Watch(request, timeout=timeout_s, wait_for_ready=True)
    try:
        async for answer in answers:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
    except grpc.RpcError as error:
        raise _not_ready(error, config, timeout_s) from error
    finally:
        answers.cancel()
    raise _ended(config)


def _ended(config: ClientConfig) -> ServerUnreachable:
    return ServerUnreachable(address=config.channel.address, detail="health watch ended")


def _not_ready(error: grpc.RpcError, config: ClientConfig, timeout_s: float) -> DiptychError:
    """Return why a server was not waited for; its silence until the deadline is its absence."""
    found = meaning(error, config, "")
    if isinstance(found, DeadlineExceeded):
        detail = f"not ready within {timeout_s:g} s"
        return ServerUnreachable(address=config.channel.address, detail=detail)
    return found
