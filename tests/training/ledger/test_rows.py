"""A job changes with its events or not at all."""

import math

import pytest
from sqlalchemy import Connection, make_url

from diptych.errors import JobStateConflict
from diptych.training.events import EventKind, Told
from diptych.training.ledger.database import Database, now
from diptych.training.ledger.jobs import Job
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.rows import advance, locked, record
from diptych.training.ledger.tables import jobs
from diptych.training.states import JobState
from support.ledgers import TENANT, asked, claimed, numbers, progress


def cancel_then_complete(connection: Connection, job: Job) -> None:
    cancelled = advance(connection, job, JobState.CANCELLED, at=now(connection))
    advance(connection, cancelled, JobState.SUCCEEDED, at=now(connection))


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), (object(), TypeError)])
def test_data_that_json_cannot_spell_is_refused_whole(
    ledger: Ledger, value: object, error: type[Exception]
) -> None:
    job = ledger.create(asked())
    claim = claimed(ledger)
    bad = Told(kind=EventKind.PROGRESS, data={"loss": value})
    with pytest.raises(error):
        ledger.append(claim, [(1, progress(1)), (2, bad)])
    assert numbers(ledger, job.id) == [1, 2]
    assert ledger.append(claim, [(1, progress(1))]) == 3


def test_an_illegal_move_writes_nothing(ledger: Ledger, url: str) -> None:
    job = ledger.create(asked())
    database = Database(make_url(url))
    with pytest.raises(JobStateConflict), database.writing() as connection:
        advance(connection, job, JobState.SUCCEEDED, at=now(connection))
    database.close()
    assert ledger.get(job.id, tenant=TENANT) == job


def test_a_move_and_its_event_stand_or_fall_together(ledger: Ledger, url: str) -> None:
    job = ledger.create(asked())
    database = Database(make_url(url))
    with pytest.raises(JobStateConflict), database.writing() as connection:
        cancel_then_complete(connection, job)
    database.close()
    assert ledger.get(job.id, tenant=TENANT) == job
    assert numbers(ledger, job.id) == [1]


def test_events_are_numbered_on_from_the_last(ledger: Ledger, url: str) -> None:
    job = ledger.create(asked())
    database = Database(make_url(url))
    with database.writing() as connection:
        at = now(connection)
        told = [(None, progress(step)) for step in range(3)]
        assert record(connection, job, told, attempt=0, at=at).last_event == 4
        assert locked(connection, jobs.c.id == "0" * 16) is None
    database.close()
    assert numbers(ledger, job.id) == [1, 2, 3, 4]
