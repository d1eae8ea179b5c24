"""One exception tree; a caller can act on ``code`` and ``reason`` without reading a message.

DiptychError
├── InvalidArgument            the caller must change the request
│   ├── InvalidRequest         every violation of one request at once
│   ├── PromptTooLong          a prompt does not fit the encoders' window
│   ├── CheckpointInvalid      files that are not a checkpoint we can read
│   │   └── PickleRefused      weights in a format that runs code when read
│   ├── AdapterInvalid         bytes that are not an adapter we can read
│   ├── ConversionUnsupported  a file format that cannot say what an adapter holds
│   ├── DatasetInvalid         a manifest that cannot be used, every violation at once
│   ├── DigestMismatch         bytes that are not what their sender named
│   ├── EmbeddingInvalid       bytes that are not an embedding
│   ├── ImageInvalid           bytes that are not a picture we can read
│   ├── JobInvalid             a training job that cannot be run, every violation at once
│   └── SettingInvalid         a setting of the process itself
├── Unauthenticated
│   └── TokenRefused           no token, or none that this server knows
├── PermissionDenied
│   └── TenantRefused          a call for another tenant than the caller's own
├── FailedPrecondition         the system is not in a state for it
│   ├── AdapterMismatch        an adapter made for another model
│   ├── AdapterInUse           an adapter that running requests hold
│   ├── ExpertsMismatch        a base and a refiner that do not belong together
│   ├── EncodersMismatch       a cache whose encoders are not the trained model's
│   ├── ExpertMissing          no expert here for what was asked
│   ├── ExtraMissing           an optional part of the package is not installed
│   ├── JobStateConflict       a job whose state does not let it do that
│   ├── NonFiniteLoss          training went where there are no numbers
│   └── ResumeMismatch         checkpoints of a job that asked for something else
├── Aborted                    another caller was first; read again, then decide
│   ├── LeaseLost              a job that another owner has taken over
│   └── NameMoved              a name no longer points where the caller thought
├── AlreadyExists
│   ├── NameTaken              a name that points at something else already
│   └── RequestIdReused        a request's id that stood for another request
├── NotFound
│   ├── AdapterNotFound        no adapter of that name or digest
│   ├── BlobNotFound           a store holds nothing of that digest
│   ├── EmbeddingMissing       an embedding that is not there and may not be made
│   ├── JobNotFound            no job of that id that the caller may see
│   ├── ModelNotFound
│   └── ObjectNotFound         a bucket or object that does not exist
├── ResourceExhausted          later, or smaller
│   ├── AdapterSlotsFull       no room for adapters of that rank on the device
│   ├── StoreFull              the disk or bucket takes no more bytes
│   ├── QueueFull
│   ├── QuotaExceeded          a tenant's jobs that have not ended are as many as they may be
│   └── OutOfDeviceMemory
├── DeadlineExceeded
│   ├── DeadlinePassed         the time is up
│   └── DeadlineUnreachable    refused early rather than failed late
├── Cancelled
│   └── RequestCancelled
├── Unavailable                the same request may succeed later
│   ├── Starting               weights are still loading
│   ├── Draining
│   ├── LedgerUnavailable      the database of jobs does not answer
│   ├── PeerUnavailable
│   ├── ServerUnreachable      nothing that speaks gRPC answers at an address
│   └── SourceUnavailable      a hub or store of models does not answer
├── DataLoss                   what was stored cannot be read back
│   └── BlobCorrupt            stored bytes are no longer what their digest says
└── Internal                   our fault
    ├── EngineFault
    ├── TimestepOutOfRange     an expert trained on another's timesteps
    └── ResponseCorrupt        a server's answer breaks its own contract
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "Aborted",
    "AdapterInUse",
    "AdapterInvalid",
    "AdapterMismatch",
    "AdapterNotFound",
    "AdapterSlotsFull",
    "AlreadyExists",
    "BlobCorrupt",
    "BlobNotFound",
    "Cancelled",
    "CheckpointInvalid",
    "ConversionUnsupported",
    "DataLoss",
    "DatasetInvalid",
    "DeadlineExceeded",
    "DeadlinePassed",
    "DeadlineUnreachable",
    "DigestMismatch",
    "DiptychError",
    "Draining",
    "EmbeddingInvalid",
    "EmbeddingMissing",
    "EncodersMismatch",
    "EngineFault",
    "ExpertMissing",
    "ExpertsMismatch",
    "ExtraMissing",
    "FailedPrecondition",
    "FieldViolation",
    "ImageInvalid",
    "Internal",
    "InvalidArgument",
    "InvalidRequest",
    "JobInvalid",
    "JobNotFound",
    "JobStateConflict",
    "LeaseLost",
    "LedgerUnavailable",
    "ModelNotFound",
    "NameMoved",
    "NameTaken",
    "NonFiniteLoss",
    "NotFound",
    "ObjectNotFound",
    "OutOfDeviceMemory",
    "PeerUnavailable",
    "PermissionDenied",
    "PickleRefused",
    "PromptTooLong",
    "QueueFull",
    "QuotaExceeded",
    "RequestCancelled",
    "RequestIdReused",
    "ResourceExhausted",
    "ResponseCorrupt",
    "ResumeMismatch",
    "ServerUnreachable",
    "SettingInvalid",
    "SourceUnavailable",
    "Starting",
    "StoreFull",
    "TenantRefused",
    "TimestepOutOfRange",
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


class PermissionDenied(DiptychError):
    """The server knows the caller, who may not do this."""

    code = "PERMISSION_DENIED"


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


class Aborted(DiptychError):
    """Another caller changed the same thing first."""

    code = "ABORTED"


class AlreadyExists(DiptychError):
    """What should be created is there, and is not the same."""

    code = "ALREADY_EXISTS"


class DataLoss(DiptychError):
    """Stored bytes are lost or damaged."""

    code = "DATA_LOSS"


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

    @classmethod
    def all_of(cls, found: "Sequence[PromptTooLong]") -> "PromptTooLong":
        """Return one error that names the prompts of all of ``found``, which is not empty."""
        first = found[0]
        error = cls(
            field=first.field,
            num_tokens=first.num_tokens,
            limit=first.limit,
            cut_text=first.cut_text,
        )
        error.violations = tuple(violation for one in found for violation in one.violations)
        error.args = ("; ".join(f"{v.field}: {v.description}" for v in error.violations),)
        return error


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


class AdapterInvalid(InvalidArgument):
    """A file is not an adapter this package reads."""

    reason = "ADAPTER_INVALID"

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"adapter {source}: {problem}")
        self.source, self.problem = source, problem


class ConversionUnsupported(InvalidArgument):
    """A file format has no way to say something that the adapter holds."""

    reason = "CONVERSION_UNSUPPORTED"

    def __init__(self, *, target_format: str, content: str) -> None:
        super().__init__(f"format {target_format} cannot hold {content}")
        self.target_format, self.content = target_format, content


class DatasetInvalid(InvalidArgument):
    """A dataset's manifest cannot be used as it stands; ``violations`` lists everything wrong."""

    reason = "DATASET_INVALID"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class JobInvalid(InvalidArgument):
    """A training job cannot be run as it stands; ``violations`` lists everything wrong."""

    reason = "JOB_INVALID"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class DigestMismatch(InvalidArgument):
    """Bytes arrived that do not have the digest their sender announced."""

    reason = "DIGEST_MISMATCH"

    def __init__(self, *, expected: str, actual: str) -> None:
        super().__init__(f"bytes have digest {actual}, announced was {expected}")
        self.expected, self.actual = expected, actual


class EmbeddingInvalid(InvalidArgument):
    """Bytes are not an embedding as this package keeps them."""

    reason = "EMBEDDING_INVALID"

    def __init__(self, problem: str) -> None:
        super().__init__(f"embedding: {problem}")
        self.problem = problem


class ImageInvalid(InvalidArgument):
    """A file is not a picture this package reads."""

    reason = "IMAGE_INVALID"

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"image {source}: {problem}")
        self.source, self.problem = source, problem


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


class TenantRefused(PermissionDenied):
    """A call is for another tenant than its token's, which this server does not let act for it."""

    reason = "TENANT_REFUSED"

    def __init__(self, problem: str) -> None:
        super().__init__(f"metadata x-diptych-tenant: {problem}")
        self.problem = problem


class AdapterMismatch(FailedPrecondition):
    """An adapter was made for another model than the one it should act on."""

    reason = "ADAPTER_MISMATCH"

    def __init__(self, *, adapter: str, field: str, made_for: str, used_on: str) -> None:
        super().__init__(f"adapter {adapter}: its {field} is {made_for}, the model's {used_on}")
        self.adapter, self.field, self.made_for, self.used_on = adapter, field, made_for, used_on


class AdapterInUse(FailedPrecondition):
    """An adapter cannot go while requests run with it."""

    reason = "ADAPTER_IN_USE"

    def __init__(self, *, adapter: str, num_requests: int, pinned: bool = False) -> None:
        plural = "" if num_requests == 1 else "s"
        uses = [f"in use by {num_requests} request{plural}"] if num_requests or not pinned else []
        kept = ["kept on the device by LoadAdapter"] if pinned else []
        super().__init__(f"adapter {adapter} is {' and '.join(uses + kept)}")
        self.adapter, self.num_requests, self.pinned = adapter, num_requests, pinned


class LeaseLost(Aborted):
    """Whoever calls owns a job no longer: its lease lapsed and another took the job over."""

    reason = "LEASE_LOST"

    def __init__(self, *, job: str, owner: str) -> None:
        super().__init__(f"job {job} is no longer owned by {owner}")
        self.job, self.owner = job, owner


class NameMoved(Aborted):
    """A name points elsewhere than the caller expected when it asked to move it."""

    reason = "NAME_MOVED"

    def __init__(self, *, name: str, expected: str, actual: str) -> None:
        super().__init__(f"name {name} points at {actual}, expected was {expected}")
        self.name, self.expected, self.actual = name, expected, actual


class NameTaken(AlreadyExists):
    """A name is in use for something else, and the caller did not ask to move it."""

    reason = "NAME_TAKEN"

    def __init__(self, *, name: str, actual: str) -> None:
        super().__init__(f"name {name} already points at {actual}")
        self.name, self.actual = name, actual


class RequestIdReused(AlreadyExists):
    """A request's id came before, with another request."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, *, request_id: str, job: str) -> None:
        super().__init__(f"request id {request_id!r} made job {job} from another spec")
        self.request_id, self.job = request_id, job


class AdapterNotFound(NotFound):
    """No adapter has this name or digest."""

    reason = "ADAPTER_NOT_FOUND"

    def __init__(self, adapter: str) -> None:
        super().__init__(f"no adapter {adapter!r}")
        self.adapter = adapter


class BlobNotFound(NotFound):
    """A store holds no bytes of this digest."""

    reason = "BLOB_NOT_FOUND"

    def __init__(self, digest: str) -> None:
        super().__init__(f"no blob {digest}")
        self.digest = digest


class EmbeddingMissing(NotFound):
    """The cache does not hold an embedding, and the call may not have it made."""

    reason = "EMBEDDING_MISSING"

    def __init__(self, key: str, num_missing: int = 1) -> None:
        others = f" and {num_missing - 1} more" if num_missing > 1 else ""
        super().__init__(f"no embedding {key}{others}")
        self.key, self.num_missing = key, num_missing


class BlobCorrupt(DataLoss):
    """Stored bytes no longer have the digest they were stored under."""

    reason = "BLOB_CORRUPT"

    def __init__(self, *, digest: str, actual: str) -> None:
        super().__init__(f"blob {digest} now has digest {actual}")
        self.digest, self.actual = digest, actual


class AdapterSlotsFull(ResourceExhausted):
    """The device has no room for an adapter, or never will have."""

    reason = "ADAPTER_SLOTS_FULL"

    def __init__(self, *, needed_lines: int, num_lines: int, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"adapters of total rank {needed_lines} do not fit the {num_lines} this server holds "
            "at once, or running requests and pins hold them"
        )
        self.needed_lines, self.num_lines = needed_lines, num_lines
        self.retry_after_s = retry_after_s


class StoreFull(ResourceExhausted):
    """A store has no room for more bytes."""

    reason = "STORE_FULL"

    def __init__(self, *, location: str, size_bytes: int) -> None:
        super().__init__(f"store {location} has no room for {size_bytes} bytes")
        self.location, self.size_bytes = location, size_bytes


class ExpertsMismatch(FailedPrecondition):
    """A base and a refiner differ in something both must share."""

    reason = "EXPERTS_MISMATCH"

    def __init__(self, *, field: str, base: object, refiner: object) -> None:
        super().__init__(f"experts differ in {field}: base {base!r}, refiner {refiner!r}")
        self.field, self.base, self.refiner = field, base, refiner


class EncodersMismatch(FailedPrecondition):
    """A cache makes embeddings with other encoders than those of the model that is trained."""

    reason = "ENCODERS_MISMATCH"

    def __init__(self, *, cache: str, model: str) -> None:
        super().__init__(f"no stage of the cache at {cache} has the encoders of model {model}")
        self.cache, self.model = cache, model


class NonFiniteLoss(FailedPrecondition):
    """A step's loss or gradient is infinite or no number; the weights are those before it."""

    reason = "NON_FINITE_LOSS"

    def __init__(self, *, step: int, images: str, of: str = "loss") -> None:
        super().__init__(f"the {of} of step {step} is not finite; its images are {images}")
        self.step, self.images, self.of = step, images, of


class ResumeMismatch(FailedPrecondition):
    """Checkpoints were written for another spec, so that going on would be another job."""

    reason = "RESUME_MISMATCH"

    def __init__(self, *, checkpoint: str, written_for: str, asked: str) -> None:
        super().__init__(f"checkpoint {checkpoint} is of spec {written_for}, the job's is {asked}")
        self.checkpoint, self.written_for, self.asked = checkpoint, written_for, asked


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


class JobStateConflict(FailedPrecondition):
    """A job cannot do what is asked from the state that it is in."""

    reason = "JOB_STATE_CONFLICT"

    def __init__(self, *, job: str, state: str, wanted: str) -> None:
        super().__init__(f"job {job} is {state} and cannot be {wanted}")
        self.job, self.state, self.wanted = job, state, wanted


class JobNotFound(NotFound):
    """No job has this id, or another tenant's has."""

    reason = "JOB_NOT_FOUND"

    def __init__(self, job: str) -> None:
        super().__init__(f"no job {job[:80]!r}")
        self.job = job


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


class QuotaExceeded(ResourceExhausted):
    """A tenant has as many jobs that have not ended as it may have."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, *, tenant: str, num_active: int, limit: int) -> None:
        super().__init__(
            f"tenant {tenant} has {num_active} jobs that have not ended and the limit is {limit}"
        )
        self.tenant, self.num_active, self.limit = tenant, num_active, limit


class OutOfDeviceMemory(ResourceExhausted):
    """A row does not fit the device's memory even alone."""

    reason = "OUT_OF_DEVICE_MEMORY"

    def __init__(self, *, width: int = 0, height: int = 0) -> None:
        what = f"a picture of {width}x{height}" if width else "these texts"
        super().__init__(f"no device memory for {what}")
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


class LedgerUnavailable(Unavailable):
    """The database that holds the jobs cannot be reached, or does not answer in time."""

    reason = "LEDGER_UNAVAILABLE"

    def __init__(self, database: str, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"ledger {database}: {detail}")
        self.database, self.detail, self.retry_after_s = database, detail, retry_after_s


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


class TimestepOutOfRange(Internal):
    """An expert was about to be trained on a timestep that is not its own."""

    reason = "TIMESTEP_OUT_OF_RANGE"

    def __init__(self, *, timestep: int, first: int, last: int) -> None:
        super().__init__(f"timestep {timestep} is outside the expert's {first} to {last}")
        self.timestep, self.first, self.last = timestep, first, last


class ResponseCorrupt(Internal):
    """What a server sent is not what its protocol promises."""

    reason = "RESPONSE_CORRUPT"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the server's answer is corrupt: {detail}")
        self.detail = detail
