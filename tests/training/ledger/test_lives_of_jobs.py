"""Whatever is asked of a ledger in whatever order, it does as a model of it does."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from diptych.errors import JobNotFound, JobStateConflict, LeaseLost
from diptych.training.events import EventKind
from diptych.training.ledger.jobs import Claim
from diptych.training.ledger.ledger import Ledger
from diptych.training.states import ENDED, MOVES, JobState
from diptych.training.task import Wish
from support.ledgers import TENANT, asked, progress, wipe

WISHED = {"cancel": JobState.CANCELLED, "pause": JobState.PAUSED}
OWNED = {JobState.PREPARING, JobState.RUNNING}
PICK = st.integers(0, 50)


@dataclass
class Model:
    """What a job is expected to be."""

    id: str
    priority: int
    age: int
    state: JobState = JobState.QUEUED
    fence: int = 0
    has_lapsed: bool = False
    wish: Wish | None = None
    told: list[tuple[int, str]] = field(default_factory=lambda: [(0, "queued")])
    """Attempts with the states or steps that they told of."""

    @property
    def is_due(self) -> bool:
        return self.state is JobState.QUEUED or (self.state in OWNED and self.has_lapsed)

    def go(self, state: JobState) -> None:
        self.state = state
        self.told.append((self.fence, state.value))
        if state in ENDED or state is JobState.PAUSED:
            self.wish = None

    def queue(self) -> None:
        self.go(JobState.QUEUED)
        if self.wish:
            self.go(WISHED[self.wish])


class Lives(RuleBasedStateMachine):
    """Owners, some of whom lose their jobs, and a tenant who asks for things at any time."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        super().__init__()
        wipe(url)
        self.ledger = ledger
        self.jobs: dict[str, Model] = {}
        self.claims: list[Claim] = []
        self.num_made = 0

    def job(self, pick: int) -> Model:
        return list(self.jobs.values())[pick % len(self.jobs)]

    def claim_of(self, pick: int) -> tuple[Claim, Model | None]:
        """Return a claim, and its job if it still owns it."""
        claim = self.claims[-1 - pick % len(self.claims)]
        job = self.jobs.get(claim.job.id)
        return claim, job if job and job.state in OWNED and job.fence == claim.fence else None

    @rule(priority=st.integers(-1, 1))
    def create(self, priority: int) -> None:
        job = self.ledger.create(asked(priority=priority))
        self.num_made += 1
        self.jobs[job.id] = Model(job.id, priority, self.num_made)

    @rule(lapses=st.booleans())
    def claim(self, lapses: bool) -> None:
        claim = self.ledger.claim("a", lease_s=0.0 if lapses else 3600.0)
        while due := [job for job in self.jobs.values() if job.is_due]:
            job = min(due, key=lambda job: (-job.priority, job.age))
            if job.state in OWNED:
                job.queue()
            if job.state is JobState.QUEUED:
                job.fence += 1
                job.has_lapsed = lapses
                job.go(JobState.PREPARING)
                assert claim
                assert (claim.job.id, claim.fence) == (job.id, job.fence)
                self.claims.append(claim)
                return
        assert claim is None

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, state=st.sampled_from(JobState))
    def move(self, pick: int, state: JobState) -> None:
        claim, job = self.claim_of(pick)
        if job is None:
            with pytest.raises(LeaseLost):
                self.ledger.move(claim, state)
        elif state is not job.state and state not in MOVES[job.state]:
            with pytest.raises(JobStateConflict):
                self.ledger.move(claim, state)
        else:
            self.ledger.move(claim, state)
            if state is JobState.QUEUED:
                job.queue()
            elif state is not job.state:
                job.go(state)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, first=st.integers(0, 5), num=st.integers(0, 3))
    def tell(self, pick: int, first: int, num: int) -> None:
        claim, job = self.claim_of(pick)
        told = [(step, progress(step)) for step in range(first, first + num)]
        if job is None:
            with pytest.raises(LeaseLost):
                self.ledger.append(claim, told)
        else:
            new = [(job.fence, str(step)) for step, _ in told]
            job.told += [one for one in new if one not in job.told]
            assert self.ledger.append(claim, told) == len(job.told)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, lapses=st.booleans())
    def renew(self, pick: int, lapses: bool) -> None:
        claim, job = self.claim_of(pick)
        if job is None:
            with pytest.raises(LeaseLost):
                self.ledger.renew(claim, lease_s=60.0)
        else:
            job.has_lapsed = lapses
            assert self.ledger.renew(claim, lease_s=0.0 if lapses else 3600.0).wish == job.wish

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK, wish=st.sampled_from(["cancel", "pause"]))
    def ask(self, pick: int, wish: Wish) -> None:
        job = self.job(pick)
        is_met = job.state is WISHED[wish] or job.wish == wish
        is_owned = job.state in OWNED
        if is_met:
            self.ledger.wish(job.id, wish, tenant=TENANT)
        elif job.wish == "cancel" or WISHED[wish] not in MOVES[job.state]:
            with pytest.raises(JobStateConflict):
                self.ledger.wish(job.id, wish, tenant=TENANT)
        else:
            self.ledger.wish(job.id, wish, tenant=TENANT)
            if is_owned:
                job.wish = wish
            else:
                job.go(WISHED[wish])

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def resume(self, pick: int) -> None:
        job = self.job(pick)
        if job.state in {JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}:
            self.ledger.resume(job.id, tenant=TENANT)
            job.go(JobState.QUEUED)
        else:
            with pytest.raises(JobStateConflict):
                self.ledger.resume(job.id, tenant=TENANT)

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        job = self.job(pick)
        if job.state in ENDED or job.state is JobState.PAUSED:
            self.ledger.delete(job.id, tenant=TENANT)
            del self.jobs[job.id]
            with pytest.raises(JobNotFound):
                self.ledger.events(job.id, tenant=TENANT)
        else:
            with pytest.raises(JobStateConflict):
                self.ledger.delete(job.id, tenant=TENANT)

    @override
    def teardown(self) -> None:
        """Compare every job and all its events with the model."""
        listed = self.ledger.list(tenant=TENANT, page_size=1000).jobs
        assert [job.id for job in listed] == list(self.jobs)[::-1]
        for job in listed:
            model = self.jobs[job.id]
            assert (job.state, job.wish, job.fence) == (model.state, model.wish, model.fence)
            assert job.attempt == job.fence
            assert (job.owner is not None) == (job.state in OWNED)
            assert (job.ended_at is not None) == (job.state in ENDED)
            events = self.ledger.events(job.id, tenant=TENANT, limit=1000)
            key = {EventKind.STATE: "state", EventKind.PROGRESS: "step"}
            told = [(event.attempt, str(event.data[key[event.kind]])) for event in events]
            assert told == model.told
            assert [event.number for event in events] == list(range(1, job.last_event + 1))


def test_a_ledger_does_as_the_model_does(ledger: Ledger, url: str) -> None:
    class OfThisLedger(Lives):
        def __init__(self) -> None:
            super().__init__(ledger, url)

    run_state_machine_as_test(
        OfThisLedger,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
