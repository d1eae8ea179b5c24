"""Harm that came to a job is seen; that none comes is ``system/test_training_faults``."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from diptych.bench.training_faults import FaultsConfig, FaultsFound, JobSeen, judge, overlaps
from diptych.training.events import Event, EventKind
from diptych.training.ledger.jobs import Job
from diptych.training.states import JobState

AT = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job(
    id="0" * 16,
    tenant="bench",
    name="kind",
    state=JobState.SUCCEEDED,
    spec="{}",
    request_id="",
    priority=0,
    created_at=AT,
    started_at=AT,
    ended_at=AT,
    attempt=2,
    num_faults=1,
    wish=None,
    owner=None,
    fence=2,
    fault=None,
    result={"name": "kind"},
    last_event=3,
)


def progress(number: int, step: int, attempt: int = 1) -> Event:
    data = {"step": step}
    return Event(number=number, kind=EventKind.PROGRESS, at=AT, attempt=attempt, data=data)


SEEN = JobSeen(
    asked="end",
    job=JOB,
    events=(progress(1, 1), progress(2, 2), progress(3, 2, attempt=2)),
    marks="1 77 100\n1 77 200\n2 78 300\n",
    wanted={"name": "kind"},
)


def judged(*seen: JobSeen) -> FaultsFound:
    return judge(seen, FaultsConfig(), ledger="SQLite", seconds=1.0, kills={})


def test_job_that_ended_as_asked_is_unharmed() -> None:
    found = judged(SEEN, replace(SEEN, asked="pause"), replace(SEEN, asked="cancel"))
    assert found.holds
    assert (found.num_jobs, found.num_attempts) == (3, 6)


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        ("lost", replace(SEEN, job=replace(JOB, state=JobState.QUEUED))),
        ("ended_otherwise", replace(SEEN, job=replace(JOB, state=JobState.FAILED))),
        ("ended_otherwise", replace(SEEN, job=replace(JOB, state=JobState.CANCELLED))),
        ("unlike", replace(SEEN, wanted={"name": "other"})),
        ("misnumbered", replace(SEEN, events=SEEN.events[1:])),
        ("misnumbered", replace(SEEN, events=(progress(1, 2), progress(2, 1), progress(3, 3)))),
        ("misnumbered", replace(SEEN, events=(progress(1, 1), progress(2, 1), progress(3, 2)))),
        ("overlapped", replace(SEEN, marks="1 77 100\n2 78 150\n1 77 200\n")),
    ],
)
def test_harm_is_counted_by_its_kind(harm: str, seen: JobSeen) -> None:
    found = judged(SEEN, seen)
    assert getattr(found, harm) == 1
    assert not found.holds


def test_workers_that_were_never_together_do_not_overlap() -> None:
    assert not overlaps("")
    assert not overlaps("1 7 10\n2 8 20\n5 9 30\n")
