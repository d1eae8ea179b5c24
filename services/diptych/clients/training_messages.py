"""Values to TrainingService's messages and back."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from diptych.clients.message_fields import INT32, chosen, integer, unicode
from diptych.clients.training_values import (
    CheckpointWritten,
    CreatedJob,
    Event,
    JobCall,
    JobEstimate,
    JobFault,
    JobProgress,
    JobResult,
    ListCall,
    PicturePainted,
    Prepared,
    StateChange,
    TimestepHistogram,
    TrainingEvent,
    TrainingJob,
    Unknown,
    Warned,
)
from diptych.errors import ResponseCorrupt
from diptych.v1 import training_pb2 as pb

__all__ = [
    "create_request",
    "list_request",
    "next_event",
    "read_created",
    "read_event",
    "read_job",
]

STATES: Final[Mapping[str | None, pb.TrainingJobState.ValueType]] = {
    "queued": pb.TRAINING_JOB_STATE_QUEUED,
    "preparing": pb.TRAINING_JOB_STATE_PREPARING,
    "running": pb.TRAINING_JOB_STATE_RUNNING,
    "paused": pb.TRAINING_JOB_STATE_PAUSED,
    "succeeded": pb.TRAINING_JOB_STATE_SUCCEEDED,
    "failed": pb.TRAINING_JOB_STATE_FAILED,
    "cancelled": pb.TRAINING_JOB_STATE_CANCELLED,
}
STATE_NAMES: Final[Mapping[int, str]] = {
    number: name for name, number in STATES.items() if name is not None
}
WISHES: Final[Mapping[int, str]] = {
    pb.TRAINING_WISH_CANCEL: "cancel",
    pb.TRAINING_WISH_PAUSE: "pause",
}
UNKNOWN_STATE: Final = "unknown"
"""Of a newer server."""


def create_request(call: JobCall, request_id: str, *, dry_run: bool) -> pb.CreateTrainingJobRequest:
    """Return the message that creates a job, or has it checked.

    Raises:
        InvalidRequest: A field does not fit a message.
    """
    return pb.CreateTrainingJobRequest(
        request_id=unicode("request_id", call.request_id or request_id),
        spec=unicode("spec", call.spec),
        priority=integer("priority", call.priority, INT32),
        validate_only=dry_run,
    )


def list_request(call: ListCall, page_token: str) -> pb.ListTrainingJobsRequest:
    """Return the message that asks for a page; raises as ``create_request`` does."""
    return pb.ListTrainingJobsRequest(
        page_size=integer("page_size", call.page_size, INT32),
        page_token=page_token,
        states=[chosen("states", state, STATES) for state in call.states],
        name_prefix=unicode("name_prefix", call.name_prefix),
    )


def read_created(message: pb.CreateTrainingJobResponse) -> CreatedJob:
    """Return the job that was created, if one was, and what it would take."""
    found = message.estimate
    return CreatedJob(
        job=read_job(message.job) if message.HasField("job") else None,
        estimate=JobEstimate(
            peak_memory_bytes=_known(found, "peak_memory_bytes"),
            disk_bytes=_known(found, "disk_bytes"),
            num_trained_parameters=_known(found, "num_trained_parameters"),
            num_steps=_known(found, "num_steps"),
            seconds=found.duration.ToNanoseconds() / 1e9 if found.HasField("duration") else None,
        ),
    )


def read_job(message: pb.TrainingJob) -> TrainingJob:
    """Return a job."""
    return TrainingJob(
        job_id=message.job_id,
        name=message.name,
        state=STATE_NAMES.get(message.state, UNKNOWN_STATE),
        wish=WISHES.get(message.wish),
        priority=message.priority,
        created_at=_instant(message.create_time),
        started_at=_instant(message.start_time) if message.HasField("start_time") else None,
        ended_at=_instant(message.end_time) if message.HasField("end_time") else None,
        attempt=message.attempt,
        num_faults=message.num_faults,
        fault=_fault(message.fault) if message.HasField("fault") else None,
        result=_result(message.result) if message.HasField("result") else None,
        last_event=message.last_event,
        progress=_progress(message.progress) if message.HasField("progress") else None,
        spec=message.spec,
        request_id=message.request_id,
    )


def next_event(message: pb.WatchTrainingJobResponse, *, after: int) -> TrainingEvent:
    """Return the event that follows number ``after``.

    Raises:
        ResponseCorrupt: It is another one.
    """
    event = read_event(message.event)
    if event.number != after + 1:
        raise ResponseCorrupt(f"event {event.number} after event {after}")
    return event


def read_event(message: pb.TrainingEvent) -> TrainingEvent:
    """Return an event."""
    return TrainingEvent(
        number=message.number,
        at=_instant(message.time),
        attempt=message.attempt,
        event=_event(message),
    )


def _known(message: pb.TrainingEstimate, name: str) -> int | None:
    return int(getattr(message, name)) if message.HasField(name) else None  # type: ignore[arg-type]


def _event(message: pb.TrainingEvent) -> Event:
    match message.WhichOneof("event"):
        case "state":
            state = STATE_NAMES.get(message.state.state, UNKNOWN_STATE)
            return StateChange(state=state, why=message.state.why)
        case "prepared":
            return _prepared(message.prepared)
        case "progress":
            return _progress(message.progress)
        case "checkpoint":
            return _checkpoint(message.checkpoint)
        case "picture":
            picture = message.picture
            return PicturePainted(digest=picture.digest, label=picture.label, step=picture.step)
        case "warning":
            return Warned(reason=message.warning.reason, message=message.warning.message)
        case "error":
            return _fault(message.error)
        case "result":
            return _result(message.result)
        case _:
            return Unknown()


def _prepared(message: pb.TrainingPrepared) -> Prepared:
    return Prepared(
        num_images=message.num_images,
        num_embeddings=message.num_embeddings,
        num_encoded=message.num_encoded,
        num_parameters=message.num_parameters,
    )


def _progress(message: pb.TrainingProgress) -> JobProgress:
    return JobProgress(
        expert=message.expert,
        step=message.step,
        num_steps=message.num_steps,
        epoch=message.epoch,
        loss=message.loss,
        learning_rates=dict(message.learning_rates),
        grad_norm=message.grad_norm,
        images_per_s=message.images_per_s,
        memory_bytes=message.memory_bytes,
    )


def _checkpoint(message: pb.TrainingCheckpoint) -> CheckpointWritten:
    return CheckpointWritten(
        expert=message.expert,
        step=message.step,
        digest=message.digest,
        size_bytes=message.size_bytes,
    )


def _fault(message: pb.TrainingFault) -> JobFault:
    return JobFault(reason=message.reason, message=message.message, is_users=message.is_users)


def _result(message: pb.TrainingResult) -> JobResult:
    return JobResult(
        name=message.name,
        digests=dict(message.digests),
        timesteps={
            one.expert: TimestepHistogram(
                first_timestep=one.first_timestep,
                last_timestep=one.last_timestep,
                bin_width=one.bin_width,
                bins=tuple(one.bins),
            )
            for one in message.timesteps
        },
    )


def _instant(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
