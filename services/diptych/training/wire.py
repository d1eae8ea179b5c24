"""TrainingService's messages to values, and values to messages."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.rpc.violations import Violations, shown
from diptych.training.events import Event, EventKind
from diptych.training.ledger.jobs import Job
from diptych.training.states import JobState
from diptych.training.task import Wish
from diptych.v1 import training_pb2 as pb

if TYPE_CHECKING:
    from diptych.training.estimate import Estimate

__all__ = [
    "CreateOrder",
    "ListOrder",
    "create_order",
    "estimate_message",
    "event_message",
    "job_message",
    "list_order",
    "progress_message",
    "watched_after",
]

MAX_PRIORITY: Final = 100
MAX_PREFIX_BYTES: Final = 256
MAX_PAGE: Final = 1000
MAX_TOKEN_BYTES: Final = 1024
INT64: Final = (1 << 63) - 1
STATES: Final = {
    JobState.QUEUED: pb.TRAINING_JOB_STATE_QUEUED,
    JobState.PREPARING: pb.TRAINING_JOB_STATE_PREPARING,
    JobState.RUNNING: pb.TRAINING_JOB_STATE_RUNNING,
    JobState.PAUSED: pb.TRAINING_JOB_STATE_PAUSED,
    JobState.SUCCEEDED: pb.TRAINING_JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.TRAINING_JOB_STATE_FAILED,
    JobState.CANCELLED: pb.TRAINING_JOB_STATE_CANCELLED,
}
STATES_BY_NUMBER: Final[Mapping[int, JobState]] = {
    number: state for state, number in STATES.items()
}
WISHES: Final[Mapping[Wish | None, pb.TrainingWish.ValueType]] = {
    None: pb.TRAINING_WISH_UNSPECIFIED,
    "cancel": pb.TRAINING_WISH_CANCEL,
    "pause": pb.TRAINING_WISH_PAUSE,
}

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """What a CreateTrainingJob call asks for."""

    request_id: str
    spec: str
    priority: int
    is_dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOrder:
    """Which page a ListTrainingJobs call asks for."""

    states: tuple[JobState, ...]
    name_prefix: str
    page_size: int
    page_token: str


def create_order(message: pb.CreateTrainingJobRequest, *, max_spec_bytes: int) -> CreateOrder:
    """Return what ``message`` asks for.

    Raises:
        InvalidRequest: Everything that is wrong with it, but for what its spec says.
    """
    found = Violations()
    request_id = _request_id(found, message.request_id)
    size = len(message.spec.encode())
    if not 1 <= size <= max_spec_bytes:
        found.add("spec", f"{size} bytes are not in [1, {max_spec_bytes}]")
    priority = found.integer("priority", message.priority, -MAX_PRIORITY, MAX_PRIORITY)
    found.raise_if_any()
    return CreateOrder(
        request_id=request_id,
        spec=message.spec,
        priority=priority,
        is_dry_run=message.validate_only,
    )


def _request_id(found: Violations, text: str) -> str:
    """Return a UUID as it is always spelt; empty where none is given."""
    if not text:
        return ""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        found.add("request_id", f"{shown(text)} is not a UUID")
    return ""


def list_order(message: pb.ListTrainingJobsRequest) -> ListOrder:
    """Return which page ``message`` asks for.

    Raises:
        InvalidRequest: Everything that is wrong with it.
    """
    found = Violations()
    size = found.integer("page_size", min(message.page_size, MAX_PAGE), 0, MAX_PAGE)
    prefix = found.text("name_prefix", message.name_prefix, MAX_PREFIX_BYTES)
    token = found.text("page_token", message.page_token, MAX_TOKEN_BYTES)
    for number, state in enumerate(message.states):
        if state not in STATES_BY_NUMBER:
            found.add(f"states[{number}]", f"{state} is unknown")
    found.raise_if_any()
    states = dict.fromkeys(STATES_BY_NUMBER[state] for state in message.states)
    return ListOrder(states=tuple(states), name_prefix=prefix, page_size=size, page_token=token)


def watched_after(message: pb.WatchTrainingJobRequest) -> int:
    """Return the number of the last event that the caller knows.

    Raises:
        InvalidRequest: It is below 0.
    """
    found = Violations()
    after = found.integer("after_event", message.after_event, 0, INT64)
    found.raise_if_any()
    return after


def job_message(
    job: Job, *, progress: pb.TrainingProgress | None = None, with_spec: bool = True
) -> pb.TrainingJob:
    """Return a job as callers see it."""
    return pb.TrainingJob(
        job_id=job.id,
        name=job.name,
        state=STATES[job.state],
        wish=WISHES[job.wish],
        priority=job.priority,
        create_time=_timestamp(job.created_at),
        start_time=_timestamp(job.started_at),
        end_time=_timestamp(job.ended_at),
        attempt=job.attempt,
        num_faults=job.num_faults,
        fault=None
        if job.fault is None
        else pb.TrainingFault(
            reason=job.fault.reason, message=job.fault.message, is_users=job.fault.is_users
        ),
        result=None if job.result is None else _result(job.result),
        last_event=job.last_event,
        progress=progress,
        spec=job.spec if with_spec else "",
        request_id=job.request_id,
    )


def estimate_message(estimate: "Estimate") -> pb.TrainingEstimate:
    """Return what a job would take, as callers see it."""
    message = pb.TrainingEstimate(
        peak_memory_bytes=estimate.peak_memory_bytes,
        disk_bytes=estimate.disk_bytes,
        num_trained_parameters=estimate.num_trained_parameters,
        num_steps=estimate.num_steps,
    )
    if estimate.seconds is not None:
        duration = Duration()
        duration.FromNanoseconds(round(estimate.seconds * 1e9))
        message.duration.CopyFrom(duration)
    return message


def event_message(event: Event) -> pb.TrainingEvent:
    """Return an event as callers see it."""
    message = pb.TrainingEvent(
        number=event.number, time=_timestamp(event.at), attempt=event.attempt
    )
    data = event.data
    match event.kind:
        case EventKind.STATE:
            state = STATES[JobState(_text(data, "state"))]
            message.state.CopyFrom(pb.TrainingStateChange(state=state, why=_text(data, "why")))
        case EventKind.PREPARED:
            message.prepared.CopyFrom(_prepared(data))
        case EventKind.PROGRESS:
            message.progress.CopyFrom(progress_message(data))
        case EventKind.CHECKPOINT:
            message.checkpoint.CopyFrom(_checkpoint(data))
        case EventKind.PICTURE:
            picture = pb.TrainingPicture(digest=_text(data, "digest"), label=_text(data, "label"))
            picture.step = _whole(data, "step")
            message.picture.CopyFrom(picture)
        case EventKind.WARNING:
            told = pb.TrainingWarning(reason=_text(data, "reason"), message=_text(data, "message"))
            message.warning.CopyFrom(told)
        case EventKind.ERROR:
            fault = pb.TrainingFault(reason=_text(data, "reason"), message=_text(data, "message"))
            fault.is_users = data.get("user") is True
            message.error.CopyFrom(fault)
        case EventKind.RESULT:
            message.result.CopyFrom(_result(data))
    return message


def progress_message(data: Data) -> pb.TrainingProgress:
    """Return what an event of progress tells; a number that is none is NaN."""
    rates = data.get("lr")
    return pb.TrainingProgress(
        expert=_text(data, "expert"),
        step=_whole(data, "step"),
        num_steps=_whole(data, "num_steps"),
        epoch=_real(data, "epoch"),
        loss=_real(data, "loss"),
        learning_rates={
            str(group): float(rate) for group, rate in rates.items() if rate is not None
        }
        if isinstance(rates, Mapping)
        else {},
        grad_norm=_real(data, "grad_norm"),
        images_per_s=_real(data, "images_per_s"),
        memory_bytes=_whole(data, "memory_bytes"),
    )


def _prepared(data: Data) -> pb.TrainingPrepared:
    return pb.TrainingPrepared(
        num_images=_whole(data, "num_images"),
        num_embeddings=_whole(data, "num_embeddings"),
        num_encoded=_whole(data, "num_encoded"),
        num_parameters=_whole(data, "num_parameters"),
    )


def _checkpoint(data: Data) -> pb.TrainingCheckpoint:
    return pb.TrainingCheckpoint(
        expert=_text(data, "expert"),
        step=_whole(data, "step"),
        digest=_text(data, "digest"),
        size_bytes=_whole(data, "size_bytes"),
    )


def _result(data: Data) -> pb.TrainingResult:
    digests, histograms = data.get("digests") or {}, data.get("timesteps") or {}
    return pb.TrainingResult(
        name=_text(data, "name"),
        digests={str(expert): str(digest) for expert, digest in digests.items()},
        timesteps=[_histogram(expert, one) for expert, one in histograms.items()],
    )


def _histogram(expert: str, data: Data) -> pb.TimestepHistogram:
    bins: Sequence[int] = data.get("bins") or ()
    return pb.TimestepHistogram(
        expert=expert,
        first_timestep=_whole(data, "first"),
        last_timestep=_whole(data, "last"),
        bin_width=_whole(data, "bin_width"),
        bins=bins,
    )


def _text(data: Data, name: str) -> str:
    return str(data.get(name) or "")


def _whole(data: Data, name: str) -> int:
    return int(data.get(name) or 0)


def _real(data: Data, name: str) -> float:
    value = data.get(name, 0.0)
    return float("nan") if value is None else float(value)


def _timestamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message
