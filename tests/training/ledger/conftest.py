"""Every test here runs on SQLite and on a real PostgreSQL, each time on an empty ledger."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.bench.postgres import PostgresServer, postgres_server
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from support.ledgers import wipe


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return one server for all tests."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a database is, or may be made, that holds nothing."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/ledger.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Ledger]]:
    """Return where a ledger is, and the ledger; whoever uses it empties it first."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    ledger = open_ledger(url)
    yield url, ledger
    ledger.close()


@pytest.fixture
def ledger(kept: tuple[str, Ledger]) -> Ledger:
    """Return an empty ledger."""
    url, ledger = kept
    wipe(url)
    return ledger


@pytest.fixture
def url(kept: tuple[str, Ledger], ledger: Ledger) -> str:
    """Return where the empty ledger is."""
    del ledger
    return kept[0]


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Ledger]]:
    """Return what opens the empty ledger as another process would, with connections of its own."""
    ledgers: list[Ledger] = []

    def open_it() -> Ledger:
        ledgers.append(open_ledger(url))
        return ledgers[-1]

    yield open_it
    for ledger in ledgers:
        ledger.close()
