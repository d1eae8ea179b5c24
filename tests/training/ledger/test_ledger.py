"""Jobs are made once, found by their tenant alone, and change as their state allows."""

import pytest

from diptych.errors import (
    InvalidRequest,
    JobNotFound,
    JobStateConflict,
    LeaseLost,
    QuotaExceeded,
    RequestIdReused,
)
from diptych.training.ledger.jobs import Fault, NewJob
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import JobState
from diptych.training.task import Wish
from support.ledgers import TENANT, asked, claimed, numbers, progress, states

FAULT = Fault(reason="WORKER_DIED", message="killed by signal 9", is_users=False)
ODD_IDS = ["", "x", "0" * 16, "a\0b", "\N{SNOWMAN}" * 9]


def in_state(ledger: Ledger, state: JobState, name: str = "huggy") -> str:
    """Return the id of a new job that was brought into a state."""
    job = ledger.create(asked(name, priority=9))
    if state in {JobState.CANCELLED, JobState.PAUSED}:
        ledger.wish(job.id, "cancel" if state is JobState.CANCELLED else "pause", tenant=TENANT)
    elif state is not JobState.QUEUED:
        claim = claimed(ledger)
        if state is not JobState.PREPARING:
            ledger.move(claim, JobState.RUNNING)
        if state is not JobState.RUNNING:
            ledger.move(claim, state)
    assert ledger.get(job.id, tenant=TENANT).state is state
    return job.id


def test_a_new_job_is_queued_and_says_so(ledger: Ledger) -> None:
    job = ledger.create(asked("huggy", spec='{"a": 1}', priority=3))
    assert (job.state, job.name, job.spec, job.priority) == ("queued", "huggy", '{"a": 1}', 3)
    assert (job.attempt, job.owner, job.last_event) == (0, None, 1)
    assert states(ledger, job.id) == ["queued"]


def test_what_is_read_is_what_was_made(ledger: Ledger) -> None:
    job = ledger.create(asked(request_id="r1"))
    assert ledger.get(job.id, tenant=TENANT) == job


def test_instants_are_in_utc(ledger: Ledger) -> None:
    created = ledger.create(asked()).created_at
    offset = created.utcoffset()
    assert offset is not None
    assert not offset


def test_the_same_request_makes_one_job(ledger: Ledger) -> None:
    first = ledger.create(asked(request_id="r1"))
    again = ledger.create(asked(request_id="r1", max_active=1))
    assert again == first
    assert len(ledger.list(tenant=TENANT).jobs) == 1


def test_requests_without_an_id_make_a_job_each(ledger: Ledger) -> None:
    assert ledger.create(asked()).id != ledger.create(asked()).id


def test_tenants_use_the_same_request_id_apart(ledger: Ledger) -> None:
    first = ledger.create(asked(request_id="r1"))
    assert ledger.create(asked(request_id="r1", tenant="other", spec="[]")).id != first.id


def test_another_spec_under_a_used_request_id_is_refused(ledger: Ledger) -> None:
    job = ledger.create(asked(request_id="r1"))
    with pytest.raises(RequestIdReused, match=f"'r1' made job {job.id} from another spec"):
        ledger.create(asked(request_id="r1", spec="[]"))


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        (asked(request_id="r" * 201), "request_id: 201 characters; at most 200 are kept"),
        (asked(request_id="r\0"), "request_id: holds a NUL character"),
        (asked("a\0"), "name: holds a NUL character"),
    ],
)
def test_text_that_not_every_database_keeps_is_refused(
    ledger: Ledger, new: NewJob, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        ledger.create(new)
    assert ledger.list(tenant=TENANT).jobs == ()


def test_the_longest_request_id_is_kept(ledger: Ledger) -> None:
    longest = "\N{GRINNING FACE}" * 200
    assert ledger.create(asked(request_id=longest)).request_id == longest


def test_quota_counts_a_tenants_jobs_that_have_not_ended(ledger: Ledger) -> None:
    in_state(ledger, JobState.CANCELLED)
    in_state(ledger, JobState.SUCCEEDED)
    ledger.create(asked(tenant="other"))
    in_state(ledger, JobState.PAUSED)
    ledger.create(asked(max_active=2))
    with pytest.raises(
        QuotaExceeded, match="lab has 2 jobs that have not ended and the limit is 2"
    ):
        ledger.create(asked(max_active=2))


@pytest.mark.parametrize("job_id", ODD_IDS)
def test_an_id_that_is_none_finds_nothing(ledger: Ledger, job_id: str) -> None:
    with pytest.raises(JobNotFound):
        ledger.get(job_id, tenant=TENANT)
    with pytest.raises(JobNotFound):
        ledger.events(job_id, tenant=TENANT)
    with pytest.raises(JobNotFound):
        ledger.wish(job_id, "cancel", tenant=TENANT)


def test_another_tenants_job_is_not_there(ledger: Ledger) -> None:
    job_id = in_state(ledger, JobState.PAUSED)
    for ask in (ledger.get, ledger.events, ledger.resume, ledger.delete):
        with pytest.raises(JobNotFound):
            ask(job_id, tenant="other")
    with pytest.raises(JobNotFound):
        ledger.wish(job_id, "cancel", tenant="other")
    assert ledger.get(job_id, tenant=TENANT).state is JobState.PAUSED


def test_the_queue_is_by_priority_then_age(ledger: Ledger) -> None:
    for name, priority in [("a", 0), ("b", 5), ("c", 5), ("d", -1)]:
        ledger.create(asked(name, priority=priority))
    assert [claimed(ledger).job.name for _ in range(4)] == ["b", "c", "a", "d"]
    assert ledger.claim("a", lease_s=1.0) is None


def test_a_claim_begins_an_attempt(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger, "me")
    assert (claim.owner, claim.fence) == ("me", 1)
    assert (claim.job.id, claim.job.state, claim.job.attempt) == (job.id, "preparing", 1)
    assert claim.job.started_at
    assert states(ledger, job.id) == ["queued", "preparing"]


def test_a_lapsed_lease_hands_the_job_on(ledger: Ledger) -> None:
    job = ledger.create(asked())
    stale = claimed(ledger, "first", lease_s=0.0)
    ledger.move(stale, JobState.RUNNING)
    fresh = claimed(ledger, "second")
    assert (fresh.job.id, fresh.fence, fresh.job.attempt) == (job.id, 2, 2)
    assert states(ledger, job.id) == ["queued", "preparing", "running", "queued", "preparing"]
    why = [event.data.get("why") for event in ledger.events(job.id, tenant=TENANT)]
    assert why[3] == "its owner first went away"


def test_a_stale_owner_changes_nothing(ledger: Ledger) -> None:
    job = ledger.create(asked())
    stale = claimed(ledger, "same name", lease_s=0.0)
    claimed(ledger, "same name")
    before = ledger.get(job.id, tenant=TENANT), numbers(ledger, job.id)
    with pytest.raises(LeaseLost, match=f"job {job.id} is no longer owned by same name"):
        ledger.renew(stale, lease_s=60.0)
    with pytest.raises(LeaseLost):
        ledger.move(stale, JobState.RUNNING)
    with pytest.raises(LeaseLost):
        ledger.append(stale, [(0, progress(1))])
    assert (ledger.get(job.id, tenant=TENANT), numbers(ledger, job.id)) == before


def test_a_renewed_lease_is_not_handed_on(ledger: Ledger) -> None:
    ledger.create(asked())
    claim = claimed(ledger, lease_s=0.0)
    ledger.renew(claim, lease_s=60.0)
    assert ledger.claim("other", lease_s=1.0) is None


def test_an_owner_that_lets_go_owns_no_longer(ledger: Ledger) -> None:
    ledger.create(asked())
    claim = claimed(ledger)
    assert ledger.move(claim, JobState.QUEUED).owner is None
    with pytest.raises(LeaseLost):
        ledger.renew(claim, lease_s=1.0)


def test_a_job_that_is_gone_is_no_longer_owned(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    ledger.move(claim, JobState.FAILED)
    ledger.delete(job.id, tenant=TENANT)
    with pytest.raises(LeaseLost):
        ledger.append(claim, [(0, progress(1))])


def test_an_illegal_move_is_refused(ledger: Ledger) -> None:
    ledger.create(asked())
    claim = claimed(ledger)
    with pytest.raises(JobStateConflict, match="is preparing and cannot be succeeded"):
        ledger.move(claim, JobState.SUCCEEDED)


def test_the_same_move_again_changes_nothing(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    first = ledger.move(claim, JobState.RUNNING)
    assert ledger.move(claim, JobState.RUNNING) == first
    assert states(ledger, job.id) == ["queued", "preparing", "running"]


def test_a_fault_that_queues_a_job_is_counted_and_shown(ledger: Ledger) -> None:
    job = ledger.create(asked())
    for count in (1, 2):
        moved = ledger.move(claimed(ledger), JobState.QUEUED, fault=FAULT)
        assert (moved.num_faults, moved.fault) == (count, FAULT)
    assert ledger.events(job.id, tenant=TENANT)[-1].data["why"] == "killed by signal 9"


@pytest.mark.parametrize(("fault", "count"), [(FAULT, 1), (None, 0)])
def test_faults_are_counted_since_a_job_last_came_further(
    ledger: Ledger, fault: Fault | None, count: int
) -> None:
    ledger.create(asked())
    for _ in range(2):
        ledger.move(claimed(ledger), JobState.QUEUED, fault=FAULT)
    moved = ledger.move(claimed(ledger), JobState.QUEUED, fault=fault, has_progressed=True)
    assert moved.num_faults == count


def test_a_job_that_backs_off_is_not_due(ledger: Ledger) -> None:
    ledger.create(asked())
    ledger.move(claimed(ledger), JobState.QUEUED, not_before_s=60.0)
    assert ledger.claim("a", lease_s=1.0) is None


def test_a_job_that_has_backed_off_is_due(ledger: Ledger) -> None:
    ledger.create(asked())
    ledger.move(claimed(ledger), JobState.QUEUED, not_before_s=0.0)
    assert claimed(ledger).job.attempt == 2


def test_a_resumed_job_does_not_back_off(ledger: Ledger) -> None:
    job = ledger.create(asked())
    ledger.move(claimed(ledger), JobState.QUEUED, not_before_s=60.0)
    ledger.wish(job.id, "pause", tenant=TENANT)
    ledger.resume(job.id, tenant=TENANT)
    assert claimed(ledger).job.id == job.id


def test_an_ended_job_keeps_its_result(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    ledger.move(claim, JobState.RUNNING)
    ledger.move(claim, JobState.SUCCEEDED, result={"name": "huggy", "digests": {"base": "x"}})
    found = ledger.get(job.id, tenant=TENANT)
    assert found.result == {"name": "huggy", "digests": {"base": "x"}}
    assert found.ended_at is not None


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_queued_job_does_as_asked_at_once(ledger: Ledger, wish: Wish, state: str) -> None:
    job = ledger.create(asked())
    assert ledger.wish(job.id, wish, tenant=TENANT).state == state
    assert ledger.claim("a", lease_s=1.0) is None


@pytest.mark.parametrize("wish", ["cancel", "pause"])
def test_an_owner_sees_what_was_asked(ledger: Ledger, wish: Wish) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    assert ledger.wish(job.id, wish, tenant=TENANT).state is JobState.PREPARING
    assert ledger.renew(claim, lease_s=60.0).wish == wish


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_was_asked_outlives_the_owner(ledger: Ledger, wish: Wish, state: str) -> None:
    job = ledger.create(asked())
    claimed(ledger, lease_s=0.0)
    ledger.wish(job.id, wish, tenant=TENANT)
    assert ledger.claim("other", lease_s=1.0) is None
    found = ledger.get(job.id, tenant=TENANT)
    assert (found.state, found.wish, found.owner) == (state, None, None)


def test_what_was_asked_outlives_a_fault(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    ledger.wish(job.id, "cancel", tenant=TENANT)
    assert ledger.move(claim, JobState.QUEUED, fault=FAULT).state is JobState.CANCELLED
    assert states(ledger, job.id) == ["queued", "preparing", "queued", "cancelled"]


def test_cancelling_wins_over_pausing(ledger: Ledger) -> None:
    job = ledger.create(asked())
    claimed(ledger)
    ledger.wish(job.id, "pause", tenant=TENANT)
    assert ledger.wish(job.id, "cancel", tenant=TENANT).wish == "cancel"
    with pytest.raises(JobStateConflict, match="is being cancelled and cannot be paused"):
        ledger.wish(job.id, "pause", tenant=TENANT)


def test_to_ask_again_changes_nothing(ledger: Ledger) -> None:
    job_id = in_state(ledger, JobState.CANCELLED)
    before = ledger.get(job_id, tenant=TENANT)
    assert ledger.wish(job_id, "cancel", tenant=TENANT) == before


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
def test_an_ended_job_can_be_asked_nothing(ledger: Ledger, state: JobState) -> None:
    job_id = in_state(ledger, state)
    with pytest.raises(JobStateConflict, match=f"is {state} and cannot be cancelled"):
        ledger.wish(job_id, "cancel", tenant=TENANT)


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_at_rest_can_be_resumed(ledger: Ledger, state: JobState) -> None:
    job_id = in_state(ledger, state)
    job = ledger.resume(job_id, tenant=TENANT)
    assert (job.state, job.fault, job.ended_at, job.num_faults) == ("queued", None, None, 0)


@pytest.mark.parametrize(
    "state", [JobState.QUEUED, JobState.PREPARING, JobState.RUNNING, JobState.SUCCEEDED]
)
def test_another_job_cannot_be_resumed(ledger: Ledger, state: JobState) -> None:
    job_id = in_state(ledger, state)
    with pytest.raises(JobStateConflict):
        ledger.resume(job_id, tenant=TENANT)


def test_resuming_an_ended_job_counts_against_the_quota(ledger: Ledger) -> None:
    job_id = in_state(ledger, JobState.FAILED)
    ledger.create(asked())
    with pytest.raises(QuotaExceeded):
        ledger.resume(job_id, tenant=TENANT, max_active=1)


@pytest.mark.parametrize("state", list(JobState))
def test_only_a_job_at_rest_can_be_deleted(ledger: Ledger, state: JobState) -> None:
    job_id = in_state(ledger, state)
    if state in {JobState.QUEUED, JobState.PREPARING, JobState.RUNNING}:
        with pytest.raises(JobStateConflict, match=f"is {state} and cannot be deleted"):
            ledger.delete(job_id, tenant=TENANT)
    else:
        ledger.delete(job_id, tenant=TENANT)
        with pytest.raises(JobNotFound):
            ledger.get(job_id, tenant=TENANT)


def test_a_request_may_come_again_after_its_job_was_deleted(ledger: Ledger) -> None:
    job = ledger.create(asked(request_id="r1"))
    ledger.wish(job.id, "cancel", tenant=TENANT)
    ledger.delete(job.id, tenant=TENANT)
    assert ledger.create(asked(request_id="r1")).id != job.id
