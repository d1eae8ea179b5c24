"""One database and transactions on it, on SQLite and PostgreSQL alike.

A transaction that writes is alone on SQLite; on PostgreSQL it locks the rows it reads. Connections
that died while idle are replaced unseen; one that dies in use ends the call with
``LedgerUnavailable``, and the next call makes another.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    exc,
    func,
    literal_column,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection

from diptych.errors import LedgerUnavailable
from diptych.training.ledger.tables import Instant

__all__ = ["Database", "hold", "now", "said"]

BUSY_TIMEOUT_S: Final = 20.0
"""How long a transaction waits for others before it gives up."""
_WRITES: Final = "diptych_writes"
_CLOCKS: Final = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    "postgresql": "clock_timestamp()",
}
_POSTGRES_SESSION: Final = (
    f"SET lock_timeout = '{BUSY_TIMEOUT_S:.0f}s'",
    "SET idle_in_transaction_session_timeout = '60s'",
)
"""A process that stands still in a transaction may not stop the others for good."""
_POSTGRES_OPTIONS: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Database:
    """A pool of connections; threads share it, processes that fork do not."""

    def __init__(self, url: URL) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgres(url)
        self._writer = self._engine.execution_options(**{_WRITES: True})

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that only reads.

        Raises:
            LedgerUnavailable: The database cannot be reached, or does not answer in time.
        """
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that commits as a whole, or not when it raises.

        Raises:
            LedgerUnavailable: The database cannot be reached, or does not answer in time. Where
                that happened while it committed, it may have.
        """
        with self._translated(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError) as error:
            if not _is_passing(error):
                raise
            raise LedgerUnavailable(self.name, said(error)) from error


def now(connection: Connection) -> datetime:
    """Return the instant in UTC by the database's own clock, which all owners share."""
    clock = literal_column(_CLOCKS[connection.dialect.name], Instant)
    found: datetime = connection.execute(select(clock)).scalar_one()
    return found


def hold(connection: Connection, what: str) -> None:
    """Make transactions that hold the same thing wait for each other; SQLite's always do."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(key)))


def said(error: Exception) -> str:
    """Return what the driver said, on one line and without the statement."""
    origin = error.orig if isinstance(error, exc.DBAPIError) else error
    return " ".join(str(origin).split())


def _is_passing(error: exc.SQLAlchemyError) -> bool:
    """Return whether the database is in no state to answer, rather than the statement wrong."""
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, sqlite3.Error):
        passing = isinstance(error.orig, sqlite3.OperationalError)
        return passing and error.orig.sqlite_errorcode != sqlite3.SQLITE_ERROR
    kinds = exc.OperationalError | exc.InterfaceError | exc.TimeoutError
    return isinstance(error, kinds) or (
        isinstance(error, exc.DBAPIError) and error.connection_invalidated
    )


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        del record
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={key: url.query.get(key, value) for key, value in _POSTGRES_OPTIONS.items()},
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=BUSY_TIMEOUT_S,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, record: object) -> None:
        del record
        cursor = connection.cursor()
        for statement in _POSTGRES_SESSION:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    return engine
