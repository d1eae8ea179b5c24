"""One exception tree; a caller can act on ``code`` and ``reason`` without reading a message.

DiptychError
├── InvalidArgument            the caller must change the request
│   ├── InvalidRequest         every violation of one request at once
│   ├── PromptTooLong          a prompt does not fit the encoders' window
│   ├── CheckpointInvalid      files that are not a checkpoint we can read
│   │   └── PickleRefused      weights in a format that runs code when read
│   └── SettingInvalid         a setting of the process itself
├── Unauthenticated
│   └── TokenRefused           no token, or none that this server knows
├── FailedPrecondition         the system is not in a state for it
│   ├── ExpertsMismatch        a base and a refiner that do not belong together
│   ├── ExpertMissing          no expert here for what was asked
│   └── ExtraMissing           an optional part of the package is not installed
├── NotFound
│   ├── ModelNotFound
│   └── ObjectNotFound         a bucket or object that does not exist
├── ResourceExhausted          later, or smaller
│   ├── QueueFull
│   └── OutOfDeviceMemory
├── DeadlineExceeded
│   ├── DeadlinePassed         the time is up
│   └── DeadlineUnreachable    refused early rather than failed late
├── Cancelled
│   └── RequestCancelled
├── Unavailable                the same request may succeed later
│   ├── Starting               weights are still loading
│   ├── Draining
│   ├── PeerUnavailable
│   ├── ServerUnreachable      nothing that speaks gRPC answers at an address
│   └── SourceUnavailable      a hub or store of models does not answer
└── Internal                   our fault
    ├── EngineFault
    └── ResponseCorrupt        a server's answer breaks its own contract
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "Cancelled",
    "CheckpointInvalid",
    "DeadlineExceeded",
    "DeadlinePassed",
    "DeadlineUnreachable",
    "DiptychError",
    "Draining",
    "EngineFault",
    "ExpertMissing",
    "ExpertsMismatch",
    "ExtraMissing",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "InvalidRequest",
    "ModelNotFound",
    "NotFound",
    "ObjectNotFound",
    "OutOfDeviceMemory",
    "PeerUnavailable",
    "PickleRefused",
    "PromptTooLong",
    "QueueFull",
    "RequestCancelled",
    "ResourceExhausted",
    "ResponseCorrupt",
    "ServerUnreachable",
    "SettingInvalid",
    "SourceUnavailable",
    "Starting",
    "TokenRefused",
    "Unauthenticated",
    "Unavailable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One thing wrong with one field: its path, and what was against what was expected."""

    field: str
    description: str


class DiptychError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    """Canonical code of google.rpc.Code; ``rpc.status`` turns it into a status."""
    reason: str = "UNKNOWN"
    """Stable name for programs, UPPER_SNAKE; never reworded."""
    violations: tuple[FieldViolation, ...] = ()
    """What is wrong field by field; becomes google.rpc.BadRequest."""
    retry_after_s: float | None = None
    """Seconds after which a retry makes sense; becomes google.rpc.RetryInfo."""


class InvalidArgument(DiptychError):
    """The request can never succeed as it stands."""

    code = "INVALID_ARGUMENT"


class Unauthenticated(DiptychError):
    """The server does not know the caller."""

    code = "UNAUTHENTICATED"


class FailedPrecondition(DiptychError):
    """The request is well formed but this system, as set up, cannot do it."""

    code = "FAILED_PRECONDITION"


class NotFound(DiptychError):
    """A named thing does not exist."""

    code = "NOT_FOUND"


class ResourceExhausted(DiptychError):
    """There is no room now."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(DiptychError):
    """The caller's deadline passed, or would."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(DiptychError):
    """The caller took the request back."""

    code = "CANCELLED"


class Unavailable(DiptychError):
    """A passing condition; the same request may succeed later."""

    code = "UNAVAILABLE"


class Internal(DiptychError):
    """Something that must not happen did."""

    code = "INTERNAL"


class InvalidRequest(InvalidArgument):
    """A request with one or more bad fields; all of them are named."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class PromptTooLong(InvalidArgument):
    """A prompt has more tokens than the text encoders see, and the caller asked not to cut."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, *, field: str, num_tokens: int, limit: int, cut_text: str) -> None:
        shown = cut_text if len(cut_text) <= 120 else f"{cut_text[:117]}..."
        description = f"{num_tokens} tokens exceed the limit of {limit}; would cut {shown!r}"
        super().__init__(f"{field}: {description}")
        self.field, self.num_tokens, self.limit, self.cut_text = field, num_tokens, limit, cut_text
        self.violations = (FieldViolation(field=field, description=description),)


class CheckpointInvalid(InvalidArgument):
    """A file or folder is not a checkpoint this package reads."""

    reason = "CHECKPOINT_INVALID"

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"checkpoint {source}: {problem}")
        self.source, self.problem = source, problem


class PickleRefused(CheckpointInvalid):
    """Weights come as a pickle, which runs code when read."""

    reason = "PICKLE_REFUSED"

    def __init__(self, source: str, file: str) -> None:
        super().__init__(source, f"{file} is a pickle; only .safetensors weights are read")
        self.file = file


class SettingInvalid(InvalidArgument):
    """A setting of this process is unknown or out of range."""

    reason = "SETTING_INVALID"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class TokenRefused(Unauthenticated):
    """A call came without a token, or with one that this server does not know."""

    reason = "TOKEN_REFUSED"

    def __init__(self, problem: str) -> None:
        super().__init__(f"metadata authorization: {problem}")
        self.problem = problem


class ExpertsMismatch(FailedPrecondition):
    """A base and a refiner differ in something both must share."""

    reason = "EXPERTS_MISMATCH"

    def __init__(self, *, field: str, base: object, refiner: object) -> None:
        super().__init__(f"experts differ in {field}: base {base!r}, refiner {refiner!r}")
        self.field, self.base, self.refiner = field, base, refiner


class ExpertMissing(FailedPrecondition):
    """The request needs an expert that this server does not host."""

    reason = "EXPERT_MISSING"

    def __init__(self, expert: str) -> None:
        super().__init__(f"this server hosts no {expert} expert and no peer for it")
        self.expert = expert


class ExtraMissing(FailedPrecondition):
    """The installation lacks an optional part of the package."""

    reason = "EXTRA_MISSING"

    def __init__(self, *, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs: pip install 'diptych[{extra}]'")
        self.extra, self.needed_for = extra, needed_for


class ModelNotFound(NotFound):
    """A model source names nothing."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, source: str, detail: str = "no such file, folder or model name") -> None:
        super().__init__(f"model {source!r}: {detail}")
        self.source = source


class ObjectNotFound(NotFound):
    """An object store has no such bucket or object."""

    reason = "OBJECT_NOT_FOUND"

    def __init__(self, location: str) -> None:
        super().__init__(f"{location}: no such bucket or object")
        self.location = location


class QueueFull(ResourceExhausted):
    """The queue holds as much work as it may."""

    reason = "QUEUE_FULL"

    def __init__(self, *, waiting: int, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting} requests wait and the limit is {limit}; retry in {retry_after_s:.1f} s"
        )
        self.waiting, self.limit, self.retry_after_s = waiting, limit, retry_after_s


class OutOfDeviceMemory(ResourceExhausted):
    """A row does not fit the device's memory even alone."""

    reason = "OUT_OF_DEVICE_MEMORY"

    def __init__(self, *, width: int, height: int) -> None:
        super().__init__(f"no device memory for a picture of {width}x{height}")
        self.width, self.height = width, height


class DeadlinePassed(DeadlineExceeded):
    """The caller's deadline came before the answer; the work was dropped."""

    reason = "DEADLINE_PASSED"

    def __init__(self, *, request_id: str, late_s: float) -> None:
        super().__init__(f"request {request_id} is {late_s:.2f} s past its deadline")
        self.request_id, self.late_s = request_id, late_s


class DeadlineUnreachable(DeadlineExceeded):
    """The work would end after the caller's deadline, so it was not begun."""

    reason = "DEADLINE_UNREACHABLE"

    def __init__(self, *, predicted_s: float, remaining_s: float) -> None:
        super().__init__(
            f"the request would take {predicted_s:.2f} s and its deadline is in {remaining_s:.2f} s"
        )
        self.predicted_s, self.remaining_s = predicted_s, remaining_s


class RequestCancelled(Cancelled):
    """The caller cancelled, or went away."""

    reason = "REQUEST_CANCELLED"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id} was cancelled")
        self.request_id = request_id


class Starting(Unavailable):
    """This server is loading its weights and will take calls soon."""

    reason = "STARTING"

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(f"server is loading its weights; retry in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class Draining(Unavailable):
    """This server is shutting down and hands work back."""

    reason = "DRAINING"

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(f"server is shutting down; retry in {retry_after_s:.1f} s elsewhere")
        self.retry_after_s = retry_after_s


class PeerUnavailable(Unavailable):
    """The server that hosts the other expert does not answer."""

    reason = "PEER_UNAVAILABLE"

    def __init__(self, *, address: str, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"peer {address}: {detail}")
        self.address, self.detail, self.retry_after_s = address, detail, retry_after_s


class SourceUnavailable(Unavailable):
    """A hub or object store that holds models does not answer, or not with what it promised."""

    reason = "SOURCE_UNAVAILABLE"

    def __init__(self, source: str, detail: str, retry_after_s: float = 5.0) -> None:
        super().__init__(f"source {source}: {detail}")
        self.source, self.detail, self.retry_after_s = source, detail, retry_after_s


class ServerUnreachable(Unavailable):
    """Nothing that speaks gRPC answers at an address."""

    reason = "SERVER_UNREACHABLE"

    def __init__(self, *, address: str, detail: str) -> None:
        super().__init__(f"no server at {address}: {detail}")
        self.address, self.detail = address, detail


class EngineFault(Internal):
    """A row failed for a reason that is ours; the log holds the traceback."""

    reason = "ENGINE_FAULT"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the engine failed this request: {detail}")
        self.detail = detail


class ResponseCorrupt(Internal):
    """What a server sent is not what its protocol promises."""

    reason = "RESPONSE_CORRUPT"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the server's answer is corrupt: {detail}")
        self.detail = detail
