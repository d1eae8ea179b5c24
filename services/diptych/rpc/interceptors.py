"""What happens around every call of ours: name, drain, identity, errors, log line, count.

One interceptor, one order, readable top to bottom in ``CallInterceptor.around``. Health and
reflection calls pass untouched, so that probes need no token and see a draining server.
"""

import asyncio
import contextlib
import contextvars
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from typing_extensions import override

from diptych.errors import DiptychError, EngineFault, FieldViolation, InvalidRequest
from diptych.rpc.auth import DEFAULT_TENANT, Authenticate, Trust, everyone
from diptych.rpc.drain import Gate
from diptych.rpc.status import to_status, trailing_metadata
from diptych.telemetry.logging import bind

__all__ = ["REQUEST_ID_KEY", "CallInterceptor", "Caller", "OnCall", "current_caller"]

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata that names a call in both sides' logs; the server echoes it in its trailers."""

MAX_REQUEST_ID_CHARACTERS: Final = 64
OURS: Final = "/diptych."

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Around: TypeAlias = Callable[["Context"], AbstractAsyncContextManager[None]]


class OnCall(Protocol):
    """Told how each call ended; must return at once and never raise."""

    def __call__(self, method: str, code: str, reason: str | None = None) -> None:
        """Note that ``method`` ended with canonical ``code``, and why if it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who made the call that runs in this task, and the call's name in logs."""

    tenant: str
    """Whom it is for: the token's, or who a trusted server says."""
    request_id: str


_CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("diptych_caller")


def current_caller() -> Caller:
    """Return the caller of the RPC this task serves; outside of one, the default tenant."""
    return _CALLER.get(Caller(tenant=DEFAULT_TENANT, request_id=""))


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """How a call ended, as far as is known; owned by its ``around``."""

    code: str = "OK"
    reason: str | None = None


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not at runtime
    """Wraps every asyncio handler of a ``diptych`` service, which just raises ``DiptychError``."""

    def __init__(
        self,
        gate: Gate,
        *,
        authenticate: Authenticate = everyone,
        trust: Trust | None = None,
        on_call: OnCall | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard calls with ``gate`` and ``authenticate``; report each end to ``on_call``."""
        self._gate = gate
        self._authenticate = authenticate
        self._trust = trust or Trust()
        self._on_call = on_call
        self._clock = clock

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler, wrapped if it is ours; None where there is none."""
        method = handler_call_details.method
        handler: Any = await continuation(handler_call_details)
        if not method.startswith(OURS) or handler is None:
            return cast("Handler", handler)
        return _wrap(handler, lambda context: self.around(method, context))

    @contextlib.asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Serve one call inside the block, and turn what it raises into a status."""
        metadata = _text_metadata(context)
        request_id = _request_id(metadata)
        outcome, began, name = _Outcome(), self._clock(), method.rpartition("/")[2]
        with bind(method=name, call_id=request_id):
            context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
            try:
                async with self._gate.admit():
                    own = self._authenticate(metadata)
                    tenant = self._trust.tenant(own, metadata, method=name)
                    _CALLER.set(Caller(tenant=tenant, request_id=request_id))
                    yield
            except asyncio.CancelledError:
                outcome.code, outcome.reason = _how_cancelled(context)
                raise
            except grpc.aio.AbortError:
                outcome.code = "UNKNOWN"
                raise
            except DiptychError as error:
                outcome.code, outcome.reason = error.code, error.reason
                await _abort(context, error, request_id)
            except Exception:  # noqa: BLE001  logged, fails one call
                _log.exception("call raised what no handler may raise")
                outcome.code, outcome.reason = EngineFault.code, EngineFault.reason
                fault = EngineFault(f"unexpected, see the server's log for {request_id}")
                await _abort(context, fault, request_id)
            finally:
                self._report(method, outcome, self._clock() - began)

    def _report(self, method: str, outcome: _Outcome, duration_s: float) -> None:
        """Log the end of a call and count it."""
        fields = {"code": outcome.code, "reason": outcome.reason, "duration_s": duration_s}
        _log.info("call ended", extra=fields)
        if self._on_call is not None:
            self._on_call(method.rpartition("/")[2], outcome.code, outcome.reason)


def _wrap(handler: Handler, around: Around) -> Handler:
    """Return ``handler`` with its behaviour inside ``around``, whatever its arity.

    A streaming behaviour that is an asynchronous generator is driven here, so that it is closed
    at once when the call is cancelled, wherever that finds it. Messages are parsed here too:
    gRPC itself would end a call whose bytes are none with UNKNOWN and no details.
    """
    behaviours = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    behaviour: Any = next(one for one in behaviours if one is not None)
    generates = inspect.isasyncgenfunction(behaviour)
    parse = handler.request_deserializer or bytes

    async def serve(received: Any, context: Context) -> Any:  # noqa: ANN401 - bytes, or many
        async with around(context):
            streams = handler.request_streaming
            request = _parse_each(received, parse) if streams else _parse(received, parse)
            if not generates:
                return await behaviour(request, context)
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await context.write(response)
        return None

    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    wrapped: Handler = make(serve, None, handler.response_serializer)
    return wrapped


def _parse(data: bytes, parse: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - any message
    """Return the message in ``data``.

    Raises:
        InvalidRequest: There is none of the method's kind.
    """
    try:
        return parse(data)
    except DecodeError as error:
        problem = f"{len(data)} bytes that are no message of this method"
        raise InvalidRequest([FieldViolation(field="request", description=problem)]) from error


async def _parse_each(
    received: AsyncIterator[bytes], parse: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    async for data in received:
        yield _parse(data, parse)


async def _abort(context: Context, error: DiptychError, request_id: str) -> None:
    """End the call with ``error``; raises gRPC's AbortError, which gRPC expects."""
    trailers = (*trailing_metadata(error), (REQUEST_ID_KEY, request_id))
    await context.abort(grpc.StatusCode[error.code], to_status(error).message, trailers)


def _how_cancelled(context: Context) -> tuple[str, str]:
    """Return code and reason of a call that gRPC cancelled: by its deadline, or by its caller."""
    remaining_s = cast("float | None", context.time_remaining())
    if remaining_s is not None and remaining_s <= 0:
        return "DEADLINE_EXCEEDED", "DEADLINE_PASSED"
    return "CANCELLED", "REQUEST_CANCELLED"


def _text_metadata(context: Context) -> dict[str, str]:
    """Return the call's metadata without binary values; of a repeated key, the last."""
    pairs = context.invocation_metadata() or ()
    return {str(key): value for key, value in pairs if isinstance(value, str)}


def _request_id(metadata: dict[str, str]) -> str:
    """Return the caller's name for the call if it is fit for a log, else a new one."""
    given = metadata.get(REQUEST_ID_KEY, "")
    if 0 < len(given) <= MAX_REQUEST_ID_CHARACTERS and given.isascii() and given.isprintable():
        return given
    return str(uuid.uuid4())
