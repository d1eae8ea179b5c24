"""Jobs and events are read as they were sent; what contradicts itself is refused."""

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.clients.training_messages import (
    STATES,
    create_request,
    list_request,
    next_event,
    read_created,
    read_event,
    read_job,
)
from diptych.clients.training_values import (
    CheckpointWritten,
    Event,
    JobCall,
    JobFault,
    JobProgress,
    JobResult,
    ListCall,
    PicturePainted,
    Prepared,
    StateChange,
    TimestepHistogram,
    Unknown,
    Warned,
)
from diptych.errors import InvalidRequest, ResponseCorrupt
from diptych.v1 import training_pb2 as pb

AT = Timestamp(seconds=1_700_000_000)
HISTOGRAM = pb.TimestepHistogram(
    expert="base", first_timestep=350, last_timestep=999, bin_width=100, bins=[1, 2]
)


def test_every_state_of_the_wire_has_a_name() -> None:
    numbers = {value.number for value in pb.TrainingJobState.DESCRIPTOR.values}
    assert numbers == {0, *STATES.values()}


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            pb.TrainingEvent(
                state=pb.TrainingStateChange(state=pb.TRAINING_JOB_STATE_PAUSED, why="w")
            ),
            StateChange(state="paused", why="w"),
        ),
        (
            pb.TrainingEvent(prepared=pb.TrainingPrepared(num_images=1, num_encoded=2)),
            Prepared(num_images=1, num_embeddings=0, num_encoded=2, num_parameters=0),
        ),
        (
            pb.TrainingEvent(
                progress=pb.TrainingProgress(
                    expert="base", step=1, num_steps=2, loss=0.5, learning_rates={"unet": 0.1}
                )
            ),
            JobProgress(
                expert="base",
                step=1,
                num_steps=2,
                epoch=0.0,
                loss=0.5,
                learning_rates={"unet": 0.1},
                grad_norm=0.0,
                images_per_s=0.0,
                memory_bytes=0,
            ),
        ),
        (
            pb.TrainingEvent(checkpoint=pb.TrainingCheckpoint(expert="base", step=3, digest="d")),
            CheckpointWritten(expert="base", step=3, digest="d", size_bytes=0),
        ),
        (
            pb.TrainingEvent(picture=pb.TrainingPicture(digest="d", label="l", step=4)),
            PicturePainted(digest="d", label="l", step=4),
        ),
        (
            pb.TrainingEvent(warning=pb.TrainingWarning(reason="R", message="m")),
            Warned(reason="R", message="m"),
        ),
        (
            pb.TrainingEvent(error=pb.TrainingFault(reason="R", message="m", is_users=True)),
            JobFault(reason="R", message="m", is_users=True),
        ),
        (
            pb.TrainingEvent(
                result=pb.TrainingResult(name="n", digests={"base": "d"}, timesteps=[HISTOGRAM])
            ),
            JobResult(
                name="n",
                digests={"base": "d"},
                timesteps={
                    "base": TimestepHistogram(
                        first_timestep=350, last_timestep=999, bin_width=100, bins=(1, 2)
                    )
                },
            ),
        ),
        (pb.TrainingEvent(), Unknown()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_event_of_each_kind_is_read(message: pb.TrainingEvent, event: Event) -> None:
    assert read_event(message).event == event


def test_event_that_does_not_follow_is_refused() -> None:
    message = pb.WatchTrainingJobResponse(event=pb.TrainingEvent(number=5))
    assert next_event(message, after=4).number == 5
    with pytest.raises(ResponseCorrupt, match="event 5 after event 3"):
        next_event(message, after=3)


def test_job_is_read_with_what_it_lacks() -> None:
    job = read_job(pb.TrainingJob(job_id="j", state=pb.TRAINING_JOB_STATE_QUEUED, create_time=AT))
    assert job.created_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (job.started_at, job.wish, job.fault, job.result, job.progress) == (None,) * 5
    assert not job.has_ended


def test_state_of_a_newer_server_is_unknown() -> None:
    assert read_job(pb.TrainingJob(state=99)).state == "unknown"  # type: ignore[arg-type]


def test_what_is_not_known_of_an_estimate_is_none() -> None:
    message = pb.CreateTrainingJobResponse(estimate=pb.TrainingEstimate(disk_bytes=0))
    estimate = read_created(message).estimate
    assert (estimate.peak_memory_bytes, estimate.disk_bytes, estimate.seconds) == (None, 0, None)


def test_request_keeps_the_callers_id() -> None:
    assert create_request(JobCall(spec="s", request_id="a"), "b", dry_run=False).request_id == "a"
    assert create_request(JobCall(spec="s"), "b", dry_run=True).request_id == "b"


@pytest.mark.parametrize("call", [ListCall(states=("done",)), ListCall(page_size=1 << 40)])
def test_listing_that_no_message_holds_is_refused(call: ListCall) -> None:
    with pytest.raises(InvalidRequest):
        list_request(call, "")
