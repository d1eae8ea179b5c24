"""Whose turn it is, who owns it, and what becomes of a job that its owner let go of."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, or_, select

from diptych.errors import LeaseLost
from diptych.training.ledger.jobs import Claim, Job
from diptych.training.ledger.rows import advance, job_of, locked
from diptych.training.ledger.tables import jobs
from diptych.training.states import JobState

__all__ = ["WISHED", "fenced", "hand_over", "next_due", "settled"]

WISHED: Final = {"cancel": JobState.CANCELLED, "pause": JobState.PAUSED}
"""Where a job goes that was asked to."""


def next_due(connection: Connection, at: datetime) -> Job | None:
    """Return the job whose turn it is, locked; one that another transaction holds is passed over.

    Of those that are queued and due, and those whose lease has lapsed, the one of highest priority,
    then the oldest.
    """
    waits = and_(
        jobs.c.state == JobState.QUEUED.value,
        or_(jobs.c.not_before.is_(None), jobs.c.not_before <= at),
    )
    statement = (
        select(jobs)
        .where(or_(waits, jobs.c.leased_until <= at))
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(statement).mappings().one_or_none()
    return job_of(row) if row else None


def hand_over(connection: Connection, job: Job, owner: str, *, at: datetime, lease_s: float) -> Job:
    """Give a queued job to ``owner``: its next attempt begins, above every earlier fence."""
    return advance(
        connection,
        job,
        JobState.PREPARING,
        at=at,
        owner=owner,
        fence=job.fence + 1,
        attempt=job.attempt + 1,
        leased_until=at + timedelta(seconds=lease_s),
        started_at=job.started_at or at,
    )


def settled(connection: Connection, job: Job, *, at: datetime) -> Job:
    """Return a locked job after what it was asked to do, if it is queued and so can do it now."""
    if job.wish is None or job.state is not JobState.QUEUED:
        return job
    return advance(connection, job, WISHED[job.wish], at=at, why="as was asked")


def fenced(connection: Connection, claim: Claim) -> Job:
    """Return the job of a claim, locked.

    Raises:
        LeaseLost: Somebody else owns it, or nobody.
    """
    job = locked(connection, jobs.c.id == claim.job.id)
    if job is None or (job.owner, job.fence) != (claim.owner, claim.fence):
        raise LeaseLost(job=claim.job.id, owner=claim.owner)
    return job
