"""What becomes of a job follows from how its attempt ended and what its user wants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.training.decisions import (
    Ended,
    Patience,
    Retries,
    Verdict,
    backoff_s,
    is_overdue,
    must_let_go,
    verdict,
)
from diptych.training.ledger.jobs import Fault
from diptych.training.states import JobState
from diptych.training.task import Ending, Outcome, Wish

RETRIES = Retries(max_attempts=3, backoff_s=4.0, max_backoff_s=100.0)
LOST = Ended(returncode=-9)


def decided(ended: Ended, *, wish: Wish | None = None, num_faults: int = 0) -> Verdict:
    return verdict(ended, wish=wish, num_faults=num_faults, retries=RETRIES, jitter=1.0)


def told(ending: Ending, *, is_users: bool = False) -> Ended:
    outcome = Outcome(ending=ending, reason="R", message="m", is_users=is_users)
    return Ended(outcome=outcome, returncode=0)


def test_success_brings_its_result() -> None:
    ended = Ended(outcome=Outcome(ending="succeeded", result={"name": "huggy"}))
    assert decided(ended).state is JobState.SUCCEEDED
    assert decided(ended).result == {"name": "huggy"}


def test_success_counts_though_it_was_to_be_cancelled() -> None:
    assert decided(told("succeeded"), wish="cancel").state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("wish", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)]
)
@pytest.mark.parametrize("ended", [told("stopped"), told("failed"), LOST, Ended(is_drained=True)])
def test_wish_is_granted_however_the_worker_ended(
    ended: Ended, wish: Wish, state: JobState
) -> None:
    assert decided(ended, wish=wish).state is state


def test_users_error_is_not_tried_again() -> None:
    found = decided(told("failed", is_users=True))
    assert (found.state, found.fault) == (
        JobState.FAILED,
        Fault(reason="R", message="m", is_users=True),
    )


def test_users_error_that_the_owner_found_is_not_tried_again() -> None:
    cause = Fault(reason="JOB_INVALID", message="m", is_users=True)
    assert decided(Ended(cause=cause)).state is JobState.FAILED


def test_fault_is_tried_again_later() -> None:
    found = decided(told("failed"))
    assert (found.state, found.not_before_s) == (JobState.QUEUED, 4.0)


def test_last_fault_is_the_jobs_end() -> None:
    assert decided(LOST, num_faults=1).state is JobState.QUEUED
    assert decided(LOST, num_faults=2).state is JobState.FAILED


@pytest.mark.parametrize("ended", [LOST, told("preempted"), told("failed")])
def test_drain_counts_no_fault(ended: Ended) -> None:
    drained = Ended(outcome=ended.outcome, returncode=ended.returncode, is_drained=True)
    assert decided(drained, num_faults=2) == Verdict(
        state=JobState.QUEUED, why="its server shut down"
    )


def test_preempted_worker_counts_no_fault() -> None:
    found = decided(told("preempted"), num_faults=2)
    assert (found.state, found.fault, found.not_before_s) == (JobState.QUEUED, None, 4.0)


def test_what_the_owner_knows_wins_over_the_exit_status() -> None:
    cause = Fault(reason="HEARTBEAT_LOST", message="silent", is_users=False)
    assert decided(Ended(returncode=-9, cause=cause)).fault == cause


def test_lost_worker_is_told_by_its_signal() -> None:
    fault = decided(LOST).fault
    assert fault is not None
    assert fault.message == "the worker was ended by SIGKILL and said no outcome"


@given(num_faults=st.integers(1, 10_000), jitter=st.floats(0.0, 1.0))
def test_backoff_grows_to_its_limit_and_is_never_nothing(num_faults: int, jitter: float) -> None:
    wait_s = backoff_s(num_faults, retries=RETRIES, jitter=jitter)
    longest = min(4.0 * 2.0 ** min(num_faults - 1, 32), 100.0)
    assert 0.5 * longest <= wait_s <= longest


def test_worker_must_end_before_the_lease_does() -> None:
    patience = Patience(lease_s=10.0)
    assert not must_let_go(renewed_at=0.0, now=7.9, patience=patience)
    assert must_let_go(renewed_at=0.0, now=8.0, patience=patience)


def test_lease_is_renewed_several_times_before_it_ends() -> None:
    assert Patience(lease_s=1.5).renew_s * 2 < Patience(lease_s=1.5).hold_s


def test_what_never_began_is_not_overdue() -> None:
    assert not is_overdue(since=None, now=1e9, limit_s=0.0)
    assert is_overdue(since=0.0, now=2.0, limit_s=1.0)
