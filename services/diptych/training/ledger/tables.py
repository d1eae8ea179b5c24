"""The ledger's tables as they are now; ``migrations`` say how a database gets there."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

__all__ = ["METADATA", "Instant", "events", "jobs"]


class Instant(TypeDecorator[datetime]):
    """An instant in UTC, aware of it; SQLite keeps it as sortable text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the driver stores."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the driver read, with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = MetaData()
_COUNTER: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only under this name."""

jobs: Final = Table(
    "jobs",
    METADATA,
    Column("number", _COUNTER, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("spec", Text, nullable=False),
    Column("request_id", Text),
    Column("priority", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("attempt", Integer, nullable=False),
    Column("num_faults", Integer, nullable=False),
    Column("wish", String(16)),
    Column("owner", Text),
    Column("fence", Integer, nullable=False),
    Column("leased_until", Instant),
    Column("not_before", Instant),
    Column("fault", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("last_event", Integer, nullable=False),
    UniqueConstraint("tenant", "request_id", name="one_job_a_request"),
    Index("jobs_by_tenant", "tenant", "number"),
    Index("jobs_by_turn", "state", "priority", "number"),
    Index("jobs_by_lease", "leased_until"),
    sqlite_autoincrement=True,
)

events: Final = Table(
    "events",
    METADATA,
    Column("job_id", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("at", Instant, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("sequence", BigInteger),
    Column("data", JSON, nullable=False),
    UniqueConstraint("job_id", "attempt", "sequence", name="one_event_a_telling"),
)
