"""What Alembic runs: takes the steps on the connection that ``opening`` hands over."""

from alembic import context

from diptych.training.ledger.tables import METADATA

__all__ = ["take_steps"]


def take_steps() -> None:
    """Take them in the transaction that the connection is in, all or none."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        transactional_ddl=True,
    )
    context.run_migrations()


take_steps()
