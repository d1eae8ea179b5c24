"""Any number may open a ledger at once; what is wrong with its URL is said of its setting."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from diptych.errors import LedgerUnavailable, SettingInvalid
from diptych.training.ledger import database
from diptych.training.ledger.database import Database, hold
from diptych.training.ledger.opening import MIGRATIONS, open_ledger
from support.ledgers import TENANT, asked

NO_URLS = ["", "ledger.db", "sqlite", "postgresql://host:port/x", "://", "sqlite:///a\0b"]
OTHERS = [("mysql://host/x", "mysql"), ("postgresql+psycopg2://host/x", "postgresql.psycopg2")]
OPENER = "import sys; from diptych.training.ledger.opening import open_ledger as o; o(sys.argv[1])"


def test_a_blank_database_becomes_a_ledger(blank_url: str) -> None:
    ledger = open_ledger(blank_url)
    job = ledger.create(asked())
    ledger.close()
    again = open_ledger(blank_url)
    assert again.get(job.id, tenant=TENANT) == job
    again.close()


def test_several_threads_may_open_a_blank_database_at_once(blank_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(open_ledger, [blank_url] * 4))
    for ledger in ledgers:
        ledger.create(asked())
    assert len(ledgers[0].list(tenant=TENANT).jobs) == 4
    for ledger in ledgers:
        ledger.close()


def test_several_processes_may_open_a_blank_database_at_once(blank_url: str) -> None:
    command = [sys.executable, "-c", OPENER, blank_url]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0] * 2


def test_who_opens_waits_for_another_that_migrates(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(database, "_POSTGRES_SESSION", ("SET lock_timeout = '50ms'",))
    first = Database(make_url(url))
    with first.writing() as connection:
        hold(connection, MIGRATIONS)
        with pytest.raises(LedgerUnavailable, match="lock"):
            open_ledger(url)
    first.close()


def test_a_later_versions_tables_are_left_alone(blank_url: str) -> None:
    open_ledger(blank_url).close()
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SettingInvalid, match=r"holds no ledger of this version's: .*9999"):
        open_ledger(blank_url)


def test_a_plain_postgresql_url_is_taken(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=r"ledger postgresql\+psycopg://"):
        open_ledger(f"postgresql:///none?host={tmp_path}")


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_is_said_of_its_setting(url: str) -> None:
    with pytest.raises(SettingInvalid, match=r"training\.ledger_url: ") as caught:
        open_ledger(url)
    assert [violation.field for violation in caught.value.violations] == ["training.ledger_url"]


@pytest.mark.parametrize(("url", "name"), OTHERS)
def test_another_database_is_refused(url: str, name: str) -> None:
    with pytest.raises(
        SettingInvalid, match=rf"no ledger in .*{name}.*sqlite:// and postgresql://"
    ):
        open_ledger(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_that_no_other_process_sees_is_refused(url: str) -> None:
    with pytest.raises(SettingInvalid, match="names no file"):
        open_ledger(url)


def test_the_setting_is_named_as_the_caller_names_it() -> None:
    with pytest.raises(SettingInvalid, match="here: is not a database's URL"):
        open_ledger("", setting="here")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_bytes(b"something else" * 500)
    with pytest.raises(SettingInvalid, match="file is not a database"):
        open_ledger(f"sqlite:///{file}")
    assert file.read_bytes() == b"something else" * 500


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingInvalid, match=r"ledger.db' cannot be made: .*File exists"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_a_folder_in_the_files_place_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerUnavailable, match="unable to open database file"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.db")
