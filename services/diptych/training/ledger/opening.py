"""Opens a ledger: judges its URL and brings its tables up to date, whoever else does so too."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, exc, make_url

from diptych.errors import FieldViolation, SettingInvalid
from diptych.training.ledger.database import Database, hold, said
from diptych.training.ledger.ledger import Ledger

__all__ = ["DEFAULT_SETTING", "MIGRATIONS", "open_ledger"]

DEFAULT_SETTING: Final = "training.ledger_url"
MIGRATIONS: Final = "diptych ledger's migrations"
"""What whoever opens a ledger holds while its tables are brought up to date."""
_DRIVERS: Final = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_ALEMBIC: Final = threading.Lock()


def open_ledger(url: str, *, setting: str = DEFAULT_SETTING) -> Ledger:
    """Return the ledger at ``url``, with its tables made or brought up to date.

    Args:
        url: ``sqlite:///FILE``, whose folder is made, or ``postgresql://...``.
        setting: Name of the setting that ``url`` comes from, for what is wrong with it.

    Raises:
        SettingInvalid: ``url`` names no database this package keeps a ledger in, or one whose
            tables a later version of it made.
        LedgerUnavailable: The database cannot be reached.
    """
    parsed = _parse(url, setting)
    database = Database(parsed)
    try:
        with _alone(parsed, setting), database.writing() as connection:
            hold(connection, MIGRATIONS)
            _migrate(connection)
    except BaseException as problem:
        database.close()
        if isinstance(problem, CommandError | exc.DatabaseError):
            description = f"{database.name} holds no ledger of this version's: {said(problem)}"
            raise _invalid(setting, description) from problem
        raise
    return Ledger(database)


def _parse(url: str, setting: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError) as error:
        raise _invalid(setting, "is not a database's URL") from error
    driver = _DRIVERS.get(backend)
    if driver is None or parsed.drivername not in {backend, driver}:
        known = " and ".join(f"{name}://" for name in _DRIVERS)
        raise _invalid(setting, f"no ledger in {parsed.drivername}://; {known} are known")
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise _invalid(setting, "names no file: sqlite:///FILE does")
    return parsed.set(drivername=driver)


@contextmanager
def _alone(url: URL, setting: str) -> Iterator[None]:
    """Keep other processes from opening the same file; PostgreSQL's wait within ``_migrate``."""
    if url.get_backend_name() != "sqlite":
        yield
        return
    file = Path(url.database or "").absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file.with_name(f"{file.name}.opening"), os.O_RDWR | os.O_CREAT, 0o600)
    except (OSError, ValueError) as error:
        raise _invalid(setting, f"{str(file)!r} cannot be made: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _migrate(connection: Connection) -> None:
    """Take the steps that are missing; Alembic works on one database of a process at a time."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ALEMBIC:
        command.upgrade(config, "head")


def _invalid(setting: str, description: str) -> SettingInvalid:
    return SettingInvalid([FieldViolation(field=setting, description=description)])
