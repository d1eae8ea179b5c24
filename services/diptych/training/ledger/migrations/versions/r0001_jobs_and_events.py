"""Jobs, and what happened to them."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "jobs",
        sa.Column("number", counter, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("started_at", instant),
        sa.Column("ended_at", instant),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("num_faults", sa.Integer, nullable=False),
        sa.Column("wish", sa.String(16)),
        sa.Column("owner", sa.Text),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("leased_until", instant),
        sa.Column("not_before", instant),
        sa.Column("fault", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.UniqueConstraint("tenant", "request_id", name="one_job_a_request"),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "number"])
    op.create_index("jobs_by_turn", "jobs", ["state", "priority", "number"])
    op.create_index("jobs_by_lease", "jobs", ["leased_until"])
    op.create_table(
        "events",
        sa.Column(
            "job_id",
            sa.String(32),
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", instant, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("data", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", "attempt", "sequence", name="one_event_a_telling"),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("events")
    op.drop_table("jobs")
