"""What columns hold comes back as it was, on either database."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import create_engine, insert, select

from diptych.training.ledger.tables import jobs
from diptych.training.states import JobState
from support.ledgers import TENANT

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ZONES = [UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-3, minutes=-30))]


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_an_instant_of_any_zone_comes_back_in_utc(url: str, zone: timezone) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            insert(jobs).values(
                id="0" * 16,
                tenant=TENANT,
                name="a",
                state=JobState.QUEUED.value,
                spec="{}",
                priority=0,
                created_at=AT.astimezone(zone),
                attempt=0,
                num_faults=0,
                fence=0,
                last_event=0,
            )
        )
        found = connection.execute(select(jobs.c.created_at, jobs.c.ended_at)).one()
    engine.dispose()
    assert found == (AT, None)
    assert found[0].tzinfo is UTC
