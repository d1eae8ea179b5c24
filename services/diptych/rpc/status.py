"""Errors on the wire: a ``DiptychError`` becomes a google.rpc.Status, and that becomes it again.

Whatever an error holds in a field travels in ErrorInfo's metadata, so the caller gets the same
class with the same fields and message. Trailers have a hard limit, so long texts are cut here;
nothing but the text shown to a person depends on them.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Protocol, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from diptych import errors
from diptych.errors import DiptychError, FieldViolation

__all__ = ["DOMAIN", "from_rpc_error", "from_status", "to_status", "trailing_metadata"]

DOMAIN: Final = "diptych"
"""``ErrorInfo.domain`` of every error of ours."""

MAX_MESSAGE_BYTES: Final = 1024
MAX_FIELD_BYTES: Final = 256
MAX_DETAIL_BYTES: Final = 3072
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

_FALLBACKS: Final[Mapping[str, type[DiptychError]]] = {
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "OUT_OF_RANGE": errors.InvalidArgument,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "UNIMPLEMENTED": errors.FailedPrecondition,
    "NOT_FOUND": errors.NotFound,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "UNAVAILABLE": errors.Unavailable,
    "ABORTED": errors.Aborted,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "DATA_LOSS": errors.DataLoss,
}
"""Class for a code whose reason is not one of ours; any other code is ``Internal``."""

_TOO_LARGE: Final = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC itself says of a message that it does not take."""

_PARSERS: Final[Mapping[object, Callable[[str], object]]] = {
    bool: lambda text: text == str(True),
    int: int,
    float: float,
    float | None: float,
}


class _Call(Protocol):
    """The part of grpc.Call and grpc.aio.AioRpcError that tells how a call ended."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def to_status(error: DiptychError) -> status_pb2.Status:
    """Return ``error`` as a status: ErrorInfo and, where it has them, violations and RetryInfo."""
    message = _cut(str(error), MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for name, value in vars(error).items():
        if name not in {"violations", "reason"} and value is not None:
            info.metadata[name] = _cut(str(value), MAX_FIELD_BYTES)
    status.details.add().Pack(info)
    if error.violations:
        status.details.add().Pack(_bad_request(error.violations))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def trailing_metadata(error: DiptychError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailers that carry ``error``: its status and a pushback for gRPC's own retry."""
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, to_status(error).SerializeToString())]
    if error.retry_after_s is not None:
        trailers.append((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    return tuple(trailers)


def from_status(status: status_pb2.Status) -> DiptychError:
    """Return the error that ``to_status`` was given, or the nearest class for its code.

    A reason this version does not know keeps its name on an instance of the code's class.
    """
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    has_retry = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
        has_retry = detail.Unpack(retry) or has_retry
    violations = tuple(
        FieldViolation(field=v.field, description=v.description)
        for v in bad_request.field_violations
    )
    leaf = _leaves().get(info.reason) if info.domain == DOMAIN else None
    error = _rebuild(leaf, dict(info.metadata), violations) if leaf else None
    if error is None:
        error = _FALLBACKS.get(_code_name(status.code), errors.Internal)()
        error.reason = info.reason or error.reason
        error.violations = violations
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9 if has_retry else None
    elif violations:
        error.violations = violations
    error.args = (status.message,)
    return error


def from_rpc_error(error: grpc.RpcError, *, address: str, request_id: str) -> DiptychError:
    """Return what a failed call means, whether our server said so or gRPC itself did.

    Args:
        error: What a stub raised, synchronous or asyncio.
        address: Server that was called, for the message.
        request_id: Request that was sent, for the message.
    """
    call = cast("_Call", error)
    for key, value in cast("tuple[tuple[str, bytes], ...]", call.trailing_metadata() or ()):
        if key == DETAILS_KEY:
            with suppress(DecodeError):  # a server that is none of ours: its code still tells
                return from_status(status_pb2.Status.FromString(value))
    code, detail = call.code(), call.details() or "no details"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := _TOO_LARGE.search(detail)):
        problem = f"{sizes[1]} bytes exceed the limit of {sizes[2]} of one message"
        return errors.InvalidRequest([FieldViolation(field="message", description=problem)])
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServerUnreachable(address=address, detail=detail)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlinePassed(request_id=request_id, late_s=0.0)
    if code is grpc.StatusCode.CANCELLED:
        return errors.RequestCancelled(request_id)
    return _FALLBACKS.get(code.name, errors.Internal)(f"{address}: {code.name}: {detail}")


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    """Return as many of ``violations`` as the trailers hold, and a last one counting the rest."""
    message = error_details_pb2.BadRequest()
    for index, violation in enumerate(violations):
        if message.ByteSize() > MAX_DETAIL_BYTES:
            left = len(violations) - index
            message.field_violations.add(field="", description=f"and {left} more violations")
            break
        message.field_violations.add(
            field=_cut(violation.field, MAX_FIELD_BYTES),
            description=_cut(violation.description, 2 * MAX_FIELD_BYTES),
        )
    return message


def _rebuild(
    leaf: type[DiptychError], fields: Mapping[str, str], violations: tuple[FieldViolation, ...]
) -> DiptychError | None:
    """Call ``leaf`` with what arrived; None when a field is missing or does not parse."""
    arguments: list[object] = []
    named: dict[str, object] = {}
    for name, parameter in inspect.signature(leaf).parameters.items():
        if name == "violations":
            value: object = violations
        elif name in fields:
            try:
                value = _PARSERS.get(parameter.annotation, str)(fields[name])
            except ValueError:
                return None
        elif parameter.default is not parameter.empty:
            value = parameter.default
        else:
            return None
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            arguments.append(value)
    return leaf(*arguments, **named)


def _leaves() -> dict[str, type[DiptychError]]:
    """Return every class that has a reason of its own, by that reason."""
    return {c.reason: c for c in _descendants(DiptychError) if "reason" in vars(c)}


def _descendants(parent: type[DiptychError]) -> Iterator[type[DiptychError]]:
    for child in parent.__subclasses__():
        yield child
        yield from _descendants(child)


def _code_name(code: int) -> str:
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else "UNKNOWN"


def _cut(text: str, limit_bytes: int) -> str:
    """Return ``text`` or its beginning, such that gRPC sends at most ``limit_bytes`` for it.

    A message is percent-encoded on the wire, so what is not plain ASCII counts three times.
    """
    clean = text.encode("utf-8", "replace").decode("utf-8")
    size = 0
    for index, character in enumerate(clean):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > limit_bytes:
            return f"{clean[: max(0, index - 3)]}..."
    return clean
