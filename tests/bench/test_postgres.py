"""A PostgreSQL comes from a wheel, or it is said what is missing."""

import psycopg
import pytest

from diptych.bench import postgres
from diptych.bench.postgres import postgres_server
from diptych.errors import ExtraMissing


def test_server_answers_and_goes_with_its_folder() -> None:
    with postgres_server() as server:
        name = server.new_database()
        with psycopg.connect(host=str(server.folder), user="postgres", dbname=name) as one:
            assert one.execute("SELECT 1").fetchone() == (1,)
            server.cut(name)
            with pytest.raises(psycopg.OperationalError):
                one.execute("SELECT 1")
    assert not server.folder.exists()


def test_without_the_wheel_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissing), postgres_server():
        pass
