"""All steps are taken, or none."""

import pytest
from sqlalchemy import create_engine, inspect, text

from diptych.errors import SettingInvalid
from diptych.training.ledger.opening import open_ledger


def test_a_step_that_fails_leaves_the_database_as_it_was(blank_url: str) -> None:
    open_ledger(blank_url).close()
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE events"))
        connection.execute(text("DROP TABLE jobs"))
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("CREATE TABLE events (somebody_elses INTEGER)"))
    with pytest.raises(SettingInvalid, match="already exists"):
        open_ledger(blank_url)
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "events"}
    engine.dispose()
