"""The first step makes the tables that the ledger works with, and can be taken back."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect

from diptych.training.ledger.migrations.versions import r0001_jobs_and_events as step
from diptych.training.ledger.opening import open_ledger
from diptych.training.ledger.tables import METADATA


def test_steps_lead_to_the_tables_as_the_ledger_knows_them(blank_url: str) -> None:
    open_ledger(blank_url).close()
    engine = create_engine(blank_url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_the_step_can_be_taken_back(blank_url: str) -> None:
    open_ledger(blank_url).close()
    engine = create_engine(blank_url)
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        step.downgrade()
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
