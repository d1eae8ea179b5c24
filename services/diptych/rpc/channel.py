"""Channels to a server of ours: limits, keepalive and retries, synchronous or asyncio."""

import json
from dataclasses import dataclass
from typing import Final

import grpc

__all__ = [
    "CHUNK_BYTES",
    "MAX_MESSAGE_BYTES",
    "ChannelConfig",
    "channel_options",
    "open_async_channel",
    "open_channel",
    "service_config",
]

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message either side takes."""

CHUNK_BYTES: Final = 1024 * 1024
"""Size of the pieces in which larger bytes are streamed."""

Option = tuple[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """Where a server is and how to keep in touch with it."""

    address: str
    """``host:port``, or ``dns:///host:port`` for every replica behind a headless service."""
    credentials: grpc.ChannelCredentials | None = None
    """None is plaintext."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_attempts: int = 4
    """Tries of a call that ends in UNAVAILABLE before its first answer, 1 to 5."""
    keepalive_s: float = 60.0
    """Seconds between pings while a call is open; servers refuse faster ones than every 30 s."""
    keepalive_timeout_s: float = 20.0


def service_config(config: ChannelConfig) -> dict[str, object]:
    """Return the gRPC service config: retries, and for ``dns:///`` spreading over ready replicas.

    Only UNAVAILABLE is retried, and a server's pushback decides when. That is safe because every
    RPC of ours may be repeated with the same request id.
    """
    policy = {
        "maxAttempts": config.max_attempts,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    method = {"name": [{}], **({"retryPolicy": policy} if config.max_attempts > 1 else {})}
    result: dict[str, object] = {
        "methodConfig": [method],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    if config.address.startswith("dns:///"):
        result["loadBalancingConfig"] = [{"round_robin": {}}]
        result["healthCheckConfig"] = {"serviceName": "readiness"}
    return result


def channel_options(config: ChannelConfig) -> list[Option]:
    """Return gRPC's channel arguments for ``config``."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", 2 * config.max_message_bytes),
        ("grpc.keepalive_time_ms", round(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.service_config", json.dumps(service_config(config))),
    ]


def open_channel(config: ChannelConfig) -> grpc.Channel:
    """Return a synchronous channel; it connects at its first call."""
    options = channel_options(config)
    if config.credentials is None:
        return grpc.insecure_channel(config.address, options=options)
    return grpc.secure_channel(config.address, config.credentials, options=options)


def open_async_channel(config: ChannelConfig) -> grpc.aio.Channel:
    """Return an asyncio channel of the running loop; it connects at its first call."""
    options = channel_options(config)
    if config.credentials is None:
        return grpc.aio.insecure_channel(config.address, options=options)
    return grpc.aio.secure_channel(config.address, config.credentials, options=options)
