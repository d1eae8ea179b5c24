"""Refs as small files below one folder, for many processes at once."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from diptych.digest import Digest
from diptych.storage.blobs import check_key, folder_of
from diptych.storage.partial import room, sweep_partials, sync_folder, write_whole
from diptych.storage.refs import Ref, RefStamp, check_value

__all__ = ["LocalRefs"]

_PARTIALS: Final = ".partial"
_LOCKS: Final = ".locks"
_NUM_LOCKS: Final = 64


class LocalRefs:
    """A folder that owns everything below it; a value's version is its digest.

    A writer compares and renames under a lock of the kernel's that its death releases. Readers
    take no lock: a rename shows them the old value or the new one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        (self._root / _LOCKS).mkdir(parents=True, exist_ok=True)
        sweep_partials(self._root / _PARTIALS)

    @property
    def location(self) -> str:
        """Return the folder."""
        return str(self._root)

    def read(self, key: str) -> Ref | None:
        """Return what the file holds."""
        try:
            value = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _ref(key, value)

    def write(self, key: str, value: bytes, *, expected: str | None) -> Ref | None:
        """Compare with the file, then replace it, under the key's lock."""
        check_value(value)
        with self._locked(key):
            if self._version(key) != expected:
                return None
            write_whole(self._path(key), [value], partials=self._root / _PARTIALS)
        return _ref(key, value)

    def delete(self, key: str, *, expected: str) -> bool:
        """Compare with the file, then unlink it, under the key's lock."""
        with self._locked(key):
            if self._version(key) != expected:
                return False
            self._path(key).unlink()
            sync_folder(self._path(key).parent)
        return True

    def listing(self, prefix: str, *, after: str = "", limit: int) -> list[RefStamp]:
        """Return the first keys; a key that goes while they are read is left out."""
        stamps: list[RefStamp] = []
        for key in sorted(key for key in self._keys(prefix) if key > after):
            if len(stamps) == limit:
                break
            if found := self.read(key):
                stamps.append(RefStamp(key=key, version=found.version))
        return stamps

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        number = hashlib.sha256(key.encode()).digest()[0] % _NUM_LOCKS
        path = self._root / _LOCKS / f"{number:02}"
        with room(self.location, 0):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _version(self, key: str) -> str | None:
        found = self.read(key)
        return found.version if found else None

    def _keys(self, prefix: str) -> Iterator[str]:
        for folder, subfolders, names in os.walk(self._root / folder_of(prefix)):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            relative = Path(folder).relative_to(self._root)
            for name in names:
                key = (relative / name).as_posix()
                if key.startswith(prefix):
                    yield key


def _ref(key: str, value: bytes) -> Ref:
    return Ref(key=key, value=value, version=Digest.of_bytes(value).hex)
