"""What a call leaves open is left to the server."""

import pytest

from diptych.clients.training_messages import create_request, list_request, read_job
from diptych.clients.training_values import JobCall, ListCall
from diptych.v1 import training_pb2 as pb


def test_open_fields_are_unset() -> None:
    asked = create_request(JobCall(spec="s"), "r", dry_run=False)
    assert asked == pb.CreateTrainingJobRequest(request_id="r", spec="s")
    assert list_request(ListCall(), "") == pb.ListTrainingJobsRequest()


@pytest.mark.parametrize(
    ("state", "has_ended"),
    [
        (pb.TRAINING_JOB_STATE_PAUSED, False),
        (pb.TRAINING_JOB_STATE_RUNNING, False),
        (pb.TRAINING_JOB_STATE_FAILED, True),
    ],
)
def test_job_has_ended_in_a_state_from_which_nothing_happens(
    state: pb.TrainingJobState.ValueType, has_ended: bool
) -> None:
    assert read_job(pb.TrainingJob(state=state)).has_ended is has_ended
