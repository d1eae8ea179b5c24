"""Which server a client calls, and what goes with each of its calls."""

from dataclasses import dataclass
from typing import Any, Final

import grpc

from diptych.errors import DiptychError
from diptych.rpc.auth import TENANT_KEY
from diptych.rpc.channel import ChannelConfig
from diptych.rpc.interceptors import REQUEST_ID_KEY
from diptych.rpc.status import from_rpc_error

__all__ = ["ClientConfig", "call_options", "meaning"]

MAX_TIMEOUT_S: Final = 1e8
"""Three years; gRPC takes a deadline beyond what its clock holds for one that has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Which server to call, as whom, and for how long."""

    channel: ChannelConfig
    token: str | None = None
    """Bearer token, sent with every call; send it over plaintext on loopback only."""
    tenant: str | None = None
    """Whom calls are for, where the server trusts the token's owner to say so; None is the owner.
    Only a server that hands its callers' work over to another one needs it."""
    timeout_s: float = 600.0
    """Deadline of a call that names none; ``math.inf`` waits for as long as it takes."""


def call_options(config: ClientConfig, request_id: str, timeout_s: float | None) -> dict[str, Any]:
    """Return a stub's keyword arguments: deadline, and metadata naming the call and the caller."""
    metadata = [(REQUEST_ID_KEY, request_id)]
    if config.token is not None:
        metadata.append(("authorization", f"Bearer {config.token}"))
    if config.tenant is not None:
        metadata.append((TENANT_KEY, config.tenant))
    deadline_s = config.timeout_s if timeout_s is None else timeout_s
    return {"metadata": tuple(metadata), "timeout": min(deadline_s, MAX_TIMEOUT_S)}


def meaning(error: grpc.RpcError, config: ClientConfig, request_id: str) -> DiptychError:
    """Return what a failed call means."""
    return from_rpc_error(error, address=config.channel.address, request_id=request_id)
