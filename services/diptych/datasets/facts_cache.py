"""Facts kept between runs, so that only images that changed are read again.

One SQLite file that is safe to delete, and that many processes may use at once. An image's facts
hold as long as its stamp does: a file's size, times and inode, an object's etag.
"""

import errno
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from diptych.datasets.facts import Facts
from diptych.datasets.sources.base import SourceItem
from diptych.digest import Digest
from diptych.embeddings.key import DECODING
from diptych.errors import StoreFull

__all__ = ["FactsCache"]

_VERSION: Final = DECODING * 1000 + 2
"""Its last part is raised when the same bytes yield other facts."""
_BUSY_S: Final = 30.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS facts (
    source TEXT, place TEXT, stamp TEXT, digest TEXT, width INTEGER, height INTEGER, format TEXT,
    problem TEXT, is_examined INTEGER, damage TEXT, perceptual TEXT, oddities TEXT,
    num_frames INTEGER, PRIMARY KEY (source, place)
) WITHOUT ROWID
"""
_SELECT: Final = "SELECT * FROM facts WHERE source = ? AND place = ?"
_INSERT: Final = "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class FactsCache:
    """Used by one thread; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or a new one in place of one that is damaged or of another version.

        Raises:
            StoreFull: There is no room for it.
            OSError: It cannot be written there.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with _operating(path):
            try:
                self._database = _opened(path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                for suffix in ("", "-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                self._database = _opened(path)

    def __enter__(self) -> Self:
        """Return the cache."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._database.close()

    def find(
        self, source: str, items: Sequence[SourceItem], *, examine: bool
    ) -> Mapping[str, Facts]:
        """Return, by place, the facts of the items whose bytes cannot have changed.

        Args:
            source: Names the source.
            items: What to look for; those without a stamp are never found.
            examine: Whether only facts will do for which pixels were looked at.
        """
        found: dict[str, Facts] = {}
        for item in items:
            if item.stamp is None:
                continue
            row = self._database.execute(_SELECT, (source, item.place)).fetchone()
            if row is not None and row[2] == item.stamp and (row[8] or not examine):
                found[item.place] = _facts(row)
        return found

    def keep(self, source: str, found: Sequence[tuple[SourceItem, Facts]]) -> None:
        """Keep facts, all or none of them.

        Raises:
            StoreFull: There is no room for them.
            OSError: They cannot be written.
        """
        rows = [_row(source, item, facts) for item, facts in found if item.stamp is not None]
        with _operating(self._path), self._database:
            self._database.executemany(_INSERT, rows)


@contextmanager
def _operating(path: Path) -> Iterator[None]:
    """Turn what goes wrong on the disk into errors that say so."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StoreFull(location=str(path), size_bytes=0) from error
        raise OSError(errno.EIO, str(error), str(path)) from error


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")  # a power cut costs a cache
        _check(database)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            database.execute("DROP TABLE IF EXISTS facts")
        database.execute(_TABLE)
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.commit()
    except BaseException:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise sqlite3.DatabaseError(state)


def _row(source: str, item: SourceItem, facts: Facts) -> tuple[object, ...]:
    return (
        source,
        item.place,
        item.stamp,
        facts.digest.hex,
        facts.width,
        facts.height,
        facts.format,
        facts.problem,
        facts.is_examined,
        facts.damage,
        None if facts.perceptual is None else f"{facts.perceptual:x}",
        facts.oddities,
        facts.num_frames,
    )


def _facts(row: tuple[Any, ...]) -> Facts:
    digest, width, height, picture_format, problem, is_examined, damage, perceptual = row[3:11]
    return Facts(
        digest=Digest(hex=digest),
        width=width,
        height=height,
        format=picture_format,
        problem=problem,
        is_examined=bool(is_examined),
        damage=damage,
        perceptual=None if perceptual is None else int(perceptual, 16),
        oddities=row[11],
        num_frames=row[12],
    )
