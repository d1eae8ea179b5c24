"""Rows as values, and the one way in which a job changes: with its events, under its lock."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, update

from diptych.digest import canonical_bytes
from diptych.errors import JobStateConflict
from diptych.training.events import Event, EventKind, Told
from diptych.training.ledger.jobs import Fault, Job
from diptych.training.ledger.tables import events, jobs
from diptych.training.states import ENDED, JobState, is_legal

__all__ = ["RELEASED", "advance", "change", "event_of", "job_of", "locked", "record"]

RELEASED: Mapping[str, Any] = {"owner": None, "leased_until": None}
"""What a job without an owner holds."""

_OWNED = frozenset({JobState.PREPARING, JobState.RUNNING})
"""States in which a job has an owner; in no other does it."""


def job_of(row: RowMapping) -> Job:
    """Return the job that a row of ``jobs`` holds."""
    held = {name: row[name] for name in Job.__dataclass_fields__}
    held["state"] = JobState(row["state"])
    held["request_id"] = row["request_id"] or ""
    held["fault"] = Fault(**row["fault"]) if row["fault"] else None
    return Job(**held)


def event_of(row: RowMapping) -> Event:
    """Return the event that a row of ``events`` holds."""
    return Event(
        number=row["number"],
        kind=EventKind(row["kind"]),
        at=row["at"],
        attempt=row["attempt"],
        data=row["data"],
    )


def locked(connection: Connection, *where: ColumnElement[bool]) -> Job | None:
    """Return the one job of which ``where`` is true, which nobody else can change until the end."""
    found = connection.execute(select(jobs).where(*where).with_for_update()).mappings()
    row = found.one_or_none()
    return job_of(row) if row else None


def change(connection: Connection, job: Job, **values: object) -> Job:
    """Write columns of a locked job and return it as it is then."""
    if isinstance(fault := values.get("fault"), Fault):
        values["fault"] = asdict(fault)
    statement = update(jobs).where(jobs.c.id == job.id).values(values).returning(jobs)
    return job_of(connection.execute(statement).mappings().one())


def record(
    connection: Connection,
    job: Job,
    told: Sequence[tuple[int | None, Told]],
    *,
    attempt: int,
    at: datetime,
) -> Job:
    """Append an attempt's events to a locked job, numbered on from its last, each with a sequence.

    Raises:
        ValueError: An event's data holds NaN or an infinity.
        TypeError: An event's data holds something that is no plain JSON value.
    """
    rows = []
    for number, (sequence, event) in enumerate(told, start=job.last_event + 1):
        data = dict(event.data)
        canonical_bytes(data)
        rows.append(
            {
                "job_id": job.id,
                "number": number,
                "kind": event.kind.value,
                "at": at,
                "attempt": attempt,
                "sequence": sequence,
                "data": data,
            }
        )
    connection.execute(insert(events), rows)
    return change(connection, job, last_event=job.last_event + len(rows))


def advance(
    connection: Connection,
    job: Job,
    state: JobState,
    *,
    at: datetime,
    why: str = "",
    **values: object,
) -> Job:
    """Move a locked job, write columns with it, and tell so in an event.

    A job that leaves its owner's hands lets go of it, and of a wish that was met; ended ones say
    when. The event is of the attempt that ``values`` begins, if it begins one.

    Raises:
        JobStateConflict: The move is not legal.
    """
    if not is_legal(job.state, state):
        raise JobStateConflict(job=job.id, state=job.state, wanted=state)
    implied: dict[str, object] = {"state": state.value, "fault": None}
    if state not in _OWNED:
        implied |= RELEASED
    if state is not JobState.QUEUED:
        implied |= {"not_before": None}
    if state in ENDED or state is JobState.PAUSED:
        implied |= {"wish": None}
    implied["ended_at"] = at if state in ENDED else None
    moved = change(connection, job, **(implied | values))
    data = {"state": state.value} | ({"why": why} if why else {})
    told = Told(kind=EventKind.STATE, data=data)
    return record(connection, moved, [(None, told)], attempt=moved.attempt, at=at)
