"""The ledger of jobs: every change is one transaction, and whoever reads sees whole ones.

Any number of processes may share it. Whoever claims a job owns it until the lease lapses and
another claims it; the fence, which grows with each claim, tells owners apart, so that a stale one
changes nothing. Leases are measured by the database's clock alone.
"""

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, func, insert, select

from diptych.errors import (
    FieldViolation,
    InvalidRequest,
    JobNotFound,
    JobStateConflict,
    QuotaExceeded,
    RequestIdReused,
)
from diptych.training.events import Event, EventKind, Told
from diptych.training.ledger.database import Database, hold, now
from diptych.training.ledger.jobs import Claim, Fault, Job, JobPage, NewJob
from diptych.training.ledger.leases import WISHED, fenced, hand_over, next_due, settled
from diptych.training.ledger.paging import Listing, page_limit
from diptych.training.ledger.rows import advance, change, event_of, job_of, locked, record
from diptych.training.ledger.tables import events, jobs
from diptych.training.states import ENDED, JobState
from diptych.training.task import Wish

__all__ = ["Ledger"]

MAX_REQUEST_ID_LENGTH: Final = 200
_ID: Final = re.compile(r"[0-9a-f]{16}")
_RESTING: Final = ENDED | {JobState.PAUSED}
"""States in which a job has no owner and waits for none."""


class Ledger:
    """The jobs in one database; every method may raise ``LedgerUnavailable``. Threads share it.

    A call that raised it may have been carried out all the same; to repeat it does no harm:
    ``create`` with a request's id, ``append`` and ``move`` recognise what is there already.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Let go of every connection."""
        self._database.close()

    def create(self, new: NewJob) -> Job:
        """Return the job that was made, or that the same request made before.

        Raises:
            InvalidRequest: The request's id is too long, or a text holds a NUL.
            RequestIdReused: The request's id made a job of another spec.
            QuotaExceeded: The tenant has as many jobs as it may have.
        """
        if len(new.request_id) > MAX_REQUEST_ID_LENGTH:
            limit = f"at most {MAX_REQUEST_ID_LENGTH} are kept"
            raise _invalid("request_id", f"{len(new.request_id)} characters; {limit}")
        _check_text(request_id=new.request_id, name=new.name, spec=new.spec)
        with self._database.writing() as connection:
            _hold_tenant(connection, new.tenant)
            if new.request_id and (found := _of_request(connection, new)):
                if found.spec != new.spec:
                    raise RequestIdReused(request_id=new.request_id, job=found.id)
                return found
            _check_quota(connection, new.tenant, new.max_active)
            return _insert(connection, new)

    def get(self, job_id: str, *, tenant: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: There is none, or it is another tenant's.
        """
        with self._database.reading() as connection:
            statement = select(jobs).where(jobs.c.id == _known(job_id), jobs.c.tenant == tenant)
            row = connection.execute(statement).mappings().one_or_none()
        if row is None:
            raise JobNotFound(job_id)
        return job_of(row)

    def list(
        self,
        *,
        tenant: str,
        states: Collection[JobState] = (),
        name_prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
    ) -> JobPage:
        """Return up to ``page_size`` of a tenant's jobs, newest first.

        Raises:
            InvalidRequest: ``page_size`` is negative, ``page_token`` is none of this listing's, or
                no name can begin as asked.
        """
        _check_text(name_prefix=name_prefix)
        listing = Listing(tenant=tenant, states=states, name_prefix=name_prefix)
        limit = page_limit(page_size)
        statement = select(jobs).where(jobs.c.tenant == tenant).order_by(jobs.c.number.desc())
        if states:
            statement = statement.where(jobs.c.state.in_(sorted(set(states))))
        if name_prefix:
            begins = func.substr(jobs.c.name, 1, len(name_prefix)) == name_prefix
            statement = statement.where(begins)
        if page_token:
            statement = statement.where(jobs.c.number < listing.number_in(page_token))
        with self._database.reading() as connection:
            rows = connection.execute(statement.limit(limit + 1)).mappings().all()
        token = listing.token_after(rows[limit - 1]["number"]) if len(rows) > limit else ""
        return JobPage(jobs=tuple(job_of(row) for row in rows[:limit]), next_page_token=token)

    def wish(self, job_id: str, wish: Wish, *, tenant: str) -> Job:
        """Ask that a job end or pause; without an owner it does at once, else its owner sees it.

        To ask again changes nothing, and cancelling wins over pausing.

        Raises:
            JobNotFound: There is none, or it is another tenant's.
            JobStateConflict: It has ended otherwise, or is being cancelled and cannot be paused.
        """
        wanted = WISHED[wish]
        with self._database.writing() as connection:
            job = _locked_of(connection, job_id, tenant)
            if job.state is wanted or job.wish == wish:
                return job
            if job.wish == "cancel":
                raise JobStateConflict(job=job.id, state="being cancelled", wanted=wanted)
            if job.owner is not None:
                return change(connection, job, wish=wish)
            return advance(connection, job, wanted, at=now(connection), why="as was asked")

    def resume(self, job_id: str, *, tenant: str, max_active: int | None = None) -> Job:
        """Queue a job that is paused, failed or cancelled; ``max_active`` is as for ``create``.

        Raises:
            JobNotFound: There is none, or it is another tenant's.
            JobStateConflict: It is in another state.
            QuotaExceeded: It had ended, and the tenant has as many jobs as it may have.
        """
        with self._database.writing() as connection:
            _hold_tenant(connection, tenant)
            job = _locked_of(connection, job_id, tenant)
            if job.state not in _RESTING:
                raise JobStateConflict(job=job.id, state=job.state, wanted="resumed")
            if job.state in ENDED:
                _check_quota(connection, tenant, max_active)
            at = now(connection)
            return advance(connection, job, JobState.QUEUED, at=at, why="resumed", num_faults=0)

    def delete(self, job_id: str, *, tenant: str) -> None:
        """Forget a job that has ended or is paused, and its events.

        Raises:
            JobNotFound: There is none, or it is another tenant's.
            JobStateConflict: It is in another state.
        """
        with self._database.writing() as connection:
            job = _locked_of(connection, job_id, tenant)
            if job.state not in _RESTING:
                raise JobStateConflict(job=job.id, state=job.state, wanted="deleted")
            connection.execute(delete(jobs).where(jobs.c.id == job.id))

    def events(
        self, job_id: str, *, tenant: str, after: int = 0, limit: int = 500
    ) -> Sequence[Event]:
        """Return a job's first events with numbers above ``after``, in order.

        Raises:
            JobNotFound: There is none, or it is another tenant's.
        """
        own = jobs.c.id == _known(job_id), jobs.c.tenant == tenant
        later = and_(events.c.job_id == jobs.c.id, events.c.number > after)
        statement = (
            select(jobs.c.id, events)
            .outerjoin_from(jobs, events, later)
            .where(*own)
            .order_by(events.c.number)
            .limit(limit)
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).mappings().all()
        if not rows:
            raise JobNotFound(job_id)
        return [event_of(row) for row in rows if row["number"] is not None]

    def claim(self, owner: str, *, lease_s: float) -> Claim | None:
        """Return a job that ``owner`` now owns for ``lease_s`` seconds, preparing, or None.

        The one of highest priority, then the oldest, of those that are queued and due and those
        whose owner let its lease lapse. Such a one is queued first, and where it was asked to end
        or pause it does that instead.
        """
        with self._database.writing() as connection:
            at = now(connection)
            while (job := next_due(connection, at)) is not None:
                if job.state is not JobState.QUEUED:
                    why = f"its owner {job.owner} went away"
                    job = advance(connection, job, JobState.QUEUED, at=at, why=why)
                job = settled(connection, job, at=at)
                if job.state is JobState.QUEUED:
                    job = hand_over(connection, job, owner, at=at, lease_s=lease_s)
                    return Claim(job=job, owner=owner, fence=job.fence)
        return None

    def renew(self, claim: Claim, *, lease_s: float) -> Job:
        """Own the job for ``lease_s`` seconds from now; return it, with what it was asked to do.

        Raises:
            LeaseLost: The job is no longer this owner's.
        """
        with self._database.writing() as connection:
            job = fenced(connection, claim)
            until = now(connection) + timedelta(seconds=lease_s)
            return change(connection, job, leased_until=until)

    def move(
        self,
        claim: Claim,
        state: JobState,
        *,
        why: str = "",
        fault: Fault | None = None,
        result: Mapping[str, object] | None = None,
        not_before_s: float | None = None,
        has_progressed: bool = False,
    ) -> Job:
        """Return the job in the state ``state``; out of preparing and running, it has no owner.

        A job that is queued though it was asked to end or pause does that as well.

        Args:
            claim: What says that the caller owns the job.
            state: Where the job goes; nothing happens where it is that already.
            why: What the event says; the fault's message by default.
            fault: What went wrong; of a job that is queued it is counted.
            result: What came of the job.
            not_before_s: Seconds for which nobody can claim a job that is queued.
            has_progressed: Whether earlier faults no longer count.

        Raises:
            LeaseLost: The job is no longer this owner's.
            JobStateConflict: The move is not legal.
        """
        with self._database.writing() as connection:
            job = fenced(connection, claim)
            if job.state is state:
                return job
            at = now(connection)
            values: dict[str, object] = {"fault": fault}
            if result is not None:
                values["result"] = dict(result)
            if state is JobState.QUEUED:
                earlier = 0 if has_progressed else job.num_faults
                values["num_faults"] = earlier + (fault is not None)
                values["not_before"] = at + timedelta(seconds=not_before_s or 0.0)
            why = why or (fault.message if fault else "")
            job = advance(connection, job, state, at=at, why=why, **values)
            return settled(connection, job, at=at)

    def append(
        self, claim: Claim, told: Sequence[tuple[int, Told]], *, attempt: int | None = None
    ) -> int:
        """Add what an attempt told, each with its own sequence number; return the last event's.

        What has a sequence number that the attempt told already is there, and is not added.

        Args:
            claim: What says that the caller owns the job.
            told: The events in their order.
            attempt: Which attempt told them; the claim's by default.

        Raises:
            LeaseLost: The job is no longer this owner's.
            ValueError: An event's data holds NaN or an infinity.
            TypeError: An event's data holds something that is no plain JSON value.
        """
        with self._database.writing() as connection:
            job = fenced(connection, claim)
            attempt = job.attempt if attempt is None else attempt
            fresh: dict[int, Told] = {}
            known = _known_sequences(connection, job, attempt, [sequence for sequence, _ in told])
            for sequence, event in told:
                if sequence not in known:
                    fresh.setdefault(sequence, event)
            if not fresh:
                return job.last_event
            at = now(connection)
            return record(connection, job, list(fresh.items()), attempt=attempt, at=at).last_event


def _check_text(**texts: str) -> None:
    """Refuse what PostgreSQL cannot keep, whatever the database."""
    for field, text in texts.items():
        if "\0" in text:
            raise _invalid(field, "holds a NUL character")


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)])


def _known(job_id: str) -> str:
    """Return an id that is safe to look for."""
    if not _ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    return job_id


def _locked_of(connection: Connection, job_id: str, tenant: str) -> Job:
    job = locked(connection, jobs.c.id == _known(job_id), jobs.c.tenant == tenant)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _hold_tenant(connection: Connection, tenant: str) -> None:
    """Let only one transaction at a time make a tenant's jobs: counts and requests then hold."""
    hold(connection, f"diptych ledger's tenant {tenant}")


def _of_request(connection: Connection, new: NewJob) -> Job | None:
    same = jobs.c.tenant == new.tenant, jobs.c.request_id == new.request_id
    row = connection.execute(select(jobs).where(*same)).mappings().one_or_none()
    return job_of(row) if row else None


def _check_quota(connection: Connection, tenant: str, max_active: int | None) -> None:
    if max_active is None:
        return
    active = jobs.c.tenant == tenant, jobs.c.state.not_in(sorted(ENDED))
    num_active = connection.execute(select(func.count()).where(*active)).scalar_one()
    if num_active >= max_active:
        raise QuotaExceeded(tenant=tenant, num_active=num_active, limit=max_active)


def _insert(connection: Connection, new: NewJob) -> Job:
    at = now(connection)
    statement = insert(jobs).values(
        id=secrets.token_hex(8),
        tenant=new.tenant,
        name=new.name,
        state=JobState.QUEUED.value,
        spec=new.spec,
        request_id=new.request_id or None,
        priority=new.priority,
        created_at=at,
        attempt=0,
        num_faults=0,
        fence=0,
        last_event=0,
    )
    job = job_of(connection.execute(statement.returning(jobs)).mappings().one())
    told = Told(kind=EventKind.STATE, data={"state": job.state.value})
    return record(connection, job, [(None, told)], attempt=0, at=at)


def _known_sequences(
    connection: Connection, job: Job, attempt: int, sequences: Sequence[int]
) -> frozenset[int]:
    """Return those that an attempt told before, of the range of ``sequences``."""
    if not sequences:
        return frozenset()
    own = events.c.job_id == job.id, events.c.attempt == attempt
    between = events.c.sequence.between(min(sequences), max(sequences))
    return frozenset(connection.scalars(select(events.c.sequence).where(*own, between)))
