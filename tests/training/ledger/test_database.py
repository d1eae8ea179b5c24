"""Either database keeps one clock, waits for others for a while, and is reached again once cut."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from diptych.bench.postgres import PostgresServer
from diptych.errors import LedgerUnavailable
from diptych.training.ledger import database as module
from diptych.training.ledger.database import Database, hold, now
from diptych.training.ledger.ledger import Ledger
from support.ledgers import TENANT, asked

NOWHERE = "postgresql+psycopg://postgres:secret@/none?host=/nowhere"


def fail_after_deleting(connection: Connection) -> None:
    connection.execute(text("DELETE FROM jobs"))
    connection.execute(text("SELECT 1 FROM nothing_of_this_name"))


def cut_in_use(postgres: PostgresServer, name: str, connection: Connection) -> None:
    postgres.cut(name)
    connection.execute(text("SELECT 1"))


def test_the_clock_is_utc_and_goes_on_within_a_transaction(url: str) -> None:
    database = Database(make_url(url))
    with database.writing() as connection:
        first = now(connection)
        second = now(connection)
        while second == first:
            second = now(connection)
    database.close()
    assert second > first
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=60)


def test_a_transaction_that_raises_leaves_nothing(url: str, ledger: Ledger) -> None:
    job = ledger.create(asked())
    database = Database(make_url(url))
    with pytest.raises(DBAPIError), database.writing() as connection:
        fail_after_deleting(connection)
    database.close()
    assert ledger.get(job.id, tenant=TENANT) == job


def test_who_waits_too_long_for_others_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    job = ledger.create(asked())
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_POSTGRES_SESSION", ("SET lock_timeout = '50ms'",))
    first, second = Database(make_url(url)), Database(make_url(url))
    with first.writing() as connection:
        hold(connection, "it")
        with pytest.raises(LedgerUnavailable, match="lock"), second.writing() as other:
            hold(other, "it")
    assert Ledger(second).get(job.id, tenant=TENANT) == job
    first.close()
    second.close()


def test_readers_do_not_wait_for_a_writer(url: str, ledger: Ledger) -> None:
    job = ledger.create(asked())
    database = Database(make_url(url))
    with database.writing() as connection:
        connection.execute(text("DELETE FROM jobs"))
        assert ledger.get(job.id, tenant=TENANT) == job
        connection.rollback()
    database.close()


def test_a_server_that_is_not_there_is_unavailable_and_its_password_kept() -> None:
    database = Database(make_url(NOWHERE))
    with pytest.raises(LedgerUnavailable) as caught, database.reading():
        pass
    assert "secret" not in str(caught.value)
    assert caught.value.retry_after_s == 1.0


def test_a_wrong_statement_is_not_called_unavailable(url: str) -> None:
    database = Database(make_url(url))
    with pytest.raises(DBAPIError, match="nothing_of_this_name"), database.reading() as connection:
        connection.execute(text("SELECT 1 FROM nothing_of_this_name"))
    database.close()


def test_a_connection_that_died_while_idle_is_replaced_unseen(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    database = Database(make_url(postgres.url(name)))
    with database.reading() as connection:
        connection.execute(text("SELECT 1"))
    postgres.cut(name)
    with database.reading() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    database.close()


def test_a_connection_that_dies_in_use_ends_one_call_only(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    database = Database(make_url(postgres.url(name)))
    with pytest.raises(LedgerUnavailable), database.writing() as connection:
        cut_in_use(postgres, name, connection)
    with database.writing() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    database.close()
