"""Blobs and refs of this process, gone with it: for tests and for servers without a disk."""

import threading
import time
from collections.abc import Iterable, Iterator

from diptych.digest import Digest
from diptych.errors import BlobNotFound, StoreFull
from diptych.storage.blobs import PIECE_BYTES, BlobInfo, check_key
from diptych.storage.refs import Ref, RefStamp, check_value

__all__ = ["MemoryBlobs", "MemoryRefs"]


class MemoryBlobs:
    """Blobs in a dictionary, of at most ``limit_bytes`` together."""

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._modified_s: dict[str, float] = {}

    @property
    def location(self) -> str:
        """Return ``memory``."""
        return "memory"

    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        """Join the pieces, then show them."""
        data = b"".join(pieces)
        with self._lock:
            others = sum(len(old) for name, old in self._blobs.items() if name != key)
            if self._limit_bytes is not None and others + len(data) > self._limit_bytes:
                raise StoreFull(location=self.location, size_bytes=len(data))
            self._blobs[check_key(key)] = data
            self._modified_s[key] = time.time_ns() / 1e9
        return len(data)

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yield slices of the bytes."""
        data = self._data(key)
        end = len(data) if size_bytes is None else min(len(data), start + size_bytes)
        for begin in range(start, end, PIECE_BYTES):
            yield data[begin : min(end, begin + PIECE_BYTES)]

    def find(self, key: str) -> BlobInfo | None:
        """Return the size of the bytes."""
        with self._lock:
            data = self._blobs.get(key)
            if data is None:
                return None
            return BlobInfo(key=key, size_bytes=len(data), modified_s=self._modified_s[key])

    def listing(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield the blobs there were when the first was asked for."""
        with self._lock:
            keys = sorted(key for key in self._blobs if key.startswith(prefix))
        for key in keys:
            info = self.find(key)
            if info:
                yield info

    def delete(self, key: str) -> None:
        """Forget the bytes."""
        with self._lock:
            self._blobs.pop(key, None)
            self._modified_s.pop(key, None)

    def move(self, key: str, to: str) -> None:
        """Hang the bytes elsewhere."""
        with self._lock:
            if key not in self._blobs:
                raise BlobNotFound(key)
            self._blobs[check_key(to)] = self._blobs.pop(key)
            self._modified_s[to] = self._modified_s.pop(key)

    def local_path(self, key: str) -> None:
        """Return None: there are no files."""
        check_key(key)

    def _data(self, key: str) -> bytes:
        data = self._blobs.get(key)
        if data is None:
            raise BlobNotFound(key)
        return data


class MemoryRefs:
    """Refs in a dictionary; a value's version is its digest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, bytes] = {}

    @property
    def location(self) -> str:
        """Return ``memory``."""
        return "memory"

    def read(self, key: str) -> Ref | None:
        """Return the value now."""
        value = self._values.get(key)
        return None if value is None else _ref(key, value)

    def write(self, key: str, value: bytes, *, expected: str | None) -> Ref | None:
        """Compare and set under one lock."""
        check_key(key)
        check_value(value)
        with self._lock:
            if self._version(key) != expected:
                return None
            self._values[key] = value
        return _ref(key, value)

    def delete(self, key: str, *, expected: str) -> bool:
        """Compare and remove under one lock."""
        with self._lock:
            if self._version(key) != expected:
                return False
            del self._values[key]
        return True

    def listing(self, prefix: str, *, after: str = "", limit: int) -> list[RefStamp]:
        """Return the keys in order."""
        with self._lock:
            keys = sorted(key for key in self._values if key.startswith(prefix) and key > after)
            return [
                RefStamp(key=key, version=_ref(key, self._values[key]).version)
                for key in keys[:limit]
            ]

    def _version(self, key: str) -> str | None:
        found = self.read(key)
        return found.version if found else None


def _ref(key: str, value: bytes) -> Ref:
    return Ref(key=key, value=value, version=Digest.of_bytes(value).hex)
