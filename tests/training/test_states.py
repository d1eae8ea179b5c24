"""Which moves of a job are legal."""

import pytest

from diptych.training.states import ENDED, MOVES, JobState, is_legal


def test_every_state_says_where_it_leads() -> None:
    assert set(MOVES) == set(JobState)


@pytest.mark.parametrize("state", JobState)
def test_no_state_leads_to_itself(state: JobState) -> None:
    assert not is_legal(state, state)


def test_success_is_final() -> None:
    assert not MOVES[JobState.SUCCEEDED]


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED, JobState.CANCELLED])
def test_what_stopped_may_be_queued_again(state: JobState) -> None:
    assert is_legal(state, JobState.QUEUED)


def test_only_what_runs_succeeds() -> None:
    assert [state for state in JobState if is_legal(state, JobState.SUCCEEDED)] == ["running"]


def test_nothing_runs_without_preparing() -> None:
    assert [state for state in JobState if is_legal(state, JobState.RUNNING)] == ["preparing"]


@pytest.mark.parametrize("state", sorted(set(JobState) - ENDED))
def test_what_has_not_ended_can_be_cancelled(state: JobState) -> None:
    assert is_legal(state, JobState.CANCELLED)
