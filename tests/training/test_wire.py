"""Messages become values, and values messages, whatever a worker may have told."""

import math
from datetime import UTC, datetime

import pytest

from diptych.errors import InvalidRequest
from diptych.training.events import Event, EventKind
from diptych.training.ledger.jobs import Fault, Job
from diptych.training.states import JobState
from diptych.training.wire import (
    STATES,
    create_order,
    event_message,
    job_message,
    list_order,
    progress_message,
    watched_after,
)
from diptych.v1 import training_pb2 as pb

AT = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
JOB = Job(
    id="j",
    tenant="t",
    name="huggy",
    state=JobState.FAILED,
    spec="{}",
    request_id="r",
    priority=3,
    created_at=AT,
    started_at=None,
    ended_at=AT,
    attempt=2,
    num_faults=1,
    wish="cancel",
    owner=None,
    fence=2,
    fault=Fault(reason="R", message="m", is_users=True),
    result=None,
    last_event=9,
)
RESULT = {
    "name": "huggy",
    "digests": {"base": "sha256:b"},
    "timesteps": {"base": {"first": 350, "last": 999, "bin_width": 50, "bins": [0, 1, 2]}},
}


def event(kind: EventKind, **data: object) -> pb.TrainingEvent:
    return event_message(Event(number=4, kind=kind, at=AT, attempt=2, data=data))


def test_every_state_has_a_number_of_its_own() -> None:
    assert set(STATES) == set(JobState)
    assert len(set(STATES.values())) == len(JobState)
    assert {value.number for value in pb.TrainingJobState.DESCRIPTOR.values} == {
        0,
        *STATES.values(),
    }


def test_job_is_told_whole() -> None:
    message = job_message(JOB)
    assert (message.state, message.wish) == (
        pb.TRAINING_JOB_STATE_FAILED,
        pb.TRAINING_WISH_CANCEL,
    )
    assert message.fault == pb.TrainingFault(reason="R", message="m", is_users=True)
    assert message.create_time.ToDatetime(tzinfo=UTC) == AT
    assert not message.HasField("start_time")
    assert not message.HasField("result")


def test_listing_leaves_the_spec_out() -> None:
    assert job_message(JOB, with_spec=False).spec == ""


def test_result_is_told_with_its_histogram() -> None:
    (histogram,) = event(EventKind.RESULT, **RESULT).result.timesteps
    assert histogram == pb.TimestepHistogram(
        expert="base", first_timestep=350, last_timestep=999, bin_width=50, bins=[0, 1, 2]
    )


def test_state_is_told_with_its_reason() -> None:
    told = event(EventKind.STATE, state="running", why="so").state
    assert told == pb.TrainingStateChange(state=pb.TRAINING_JOB_STATE_RUNNING, why="so")


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.STATE])
def test_event_of_every_kind_is_told_though_it_is_empty(kind: EventKind) -> None:
    message = event(kind)
    assert message.WhichOneof("event") == kind.value
    assert (message.number, message.attempt) == (4, 2)


def test_progress_keeps_its_numbers() -> None:
    message = progress_message(
        {"expert": "base", "step": 3, "loss": 0.5, "lr": {"unet": 1e-4}, "images_per_s": 2.5}
    )
    assert (message.step, message.loss, message.images_per_s) == (3, 0.5, 2.5)
    assert dict(message.learning_rates) == {"unet": 1e-4}


def test_loss_that_is_no_number_is_told_as_such() -> None:
    assert math.isnan(progress_message({"loss": None, "lr": {"unet": None}}).loss)


def test_error_tells_whose_it_is() -> None:
    assert event(EventKind.ERROR, reason="R", message="m", user=True).error.is_users


UUID = "123e4567-e89b-12d3-a456-426614174000"


def test_whole_order_is_read() -> None:
    message = pb.CreateTrainingJobRequest(
        request_id=UUID.upper(), spec="{}", priority=-100, validate_only=True
    )
    order = create_order(message, max_spec_bytes=2)
    assert (order.request_id, order.spec, order.priority, order.is_dry_run) == (
        UUID,
        "{}",
        -100,
        True,
    )


@pytest.mark.parametrize("request_id", ["é", "a\nb", "x" * 65, "mine"])
def test_request_that_is_no_uuid_is_refused(request_id: str) -> None:
    message = pb.CreateTrainingJobRequest(request_id=request_id, spec="{}")
    with pytest.raises(InvalidRequest, match="request_id"):
        create_order(message, max_spec_bytes=100)


def test_size_of_a_page_has_a_limit() -> None:
    assert list_order(pb.ListTrainingJobsRequest(page_size=5000)).page_size == 1000


@pytest.mark.parametrize(
    "message",
    [
        pb.ListTrainingJobsRequest(page_size=-1),
        pb.ListTrainingJobsRequest(states=[pb.TRAINING_JOB_STATE_UNSPECIFIED]),
        pb.ListTrainingJobsRequest(name_prefix="x" * 300),
        pb.ListTrainingJobsRequest(page_token="x" * 2000),
    ],
)
def test_listing_that_makes_no_sense_is_refused(message: pb.ListTrainingJobsRequest) -> None:
    with pytest.raises(InvalidRequest):
        list_order(message)


def test_event_before_the_first_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="after_event"):
        watched_after(pb.WatchTrainingJobRequest(after_event=-1))
