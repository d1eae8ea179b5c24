"""All steps are taken, or none."""

import pytest
from sqlalchemy import create_engine, inspect, text

from diptych.errors import SettingInvalid
from diptych.training.ledger.opening import open_ledger


def test_a_step_that_fails_leaves_the_database_as_it_was(
    blank_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    del tmp_path_factory
    open_ledger(blank_url).close()
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        connection.execute(
            text("DROP TABLE jobs" if "sqlite" in blank_url else "DROP TABLE events, jobs")
        )
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("CREATE TABLE IF NOT EXISTS events (somebody_elses INTEGER)"))
    with pytest.raises(SettingInvalid, match="already exists"):
        open_ledger(blank_url)
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "events"}
    engine.dispose()
