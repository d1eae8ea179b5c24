"""Embeddings in this process's memory, bounded in bytes."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from diptych.digest import Digest

__all__ = ["Held", "MemoryStats", "MemoryTier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """What the tier holds, and what became of what it held."""

    num_entries: int
    size_bytes: int
    limit_bytes: int
    num_evicted: int


class Held:
    """An entry, and its SHA-256 once someone has asked for it."""

    __slots__ = ("_sha256", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._sha256: bytes | None = None

    @property
    def sha256(self) -> bytes:
        """Return the digest, which many readers compute once."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.data).digest()
        return self._sha256


_NOTHING: Final = Held(b"")


class MemoryTier:
    """Serialized entries by key; when there is no room, the one unused for longest goes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Digest, Held] = OrderedDict()
        self._size_bytes = 0
        self._num_evicted = 0

    def get(self, key: Digest) -> bytes | None:
        """Return an entry and make it the last that goes."""
        held = self.held(key)
        return None if held is None else held.data

    def held(self, key: Digest) -> Held | None:
        """Return an entry as ``get`` does, with its digest."""
        with self._lock:
            held = self._entries.get(key)
            if held is not None:
                self._entries.move_to_end(key)
            return held

    def has(self, key: Digest) -> bool:
        """Tell whether an entry is here, without using it."""
        return key in self._entries

    def put(self, key: Digest, data: bytes) -> None:
        """Keep an entry, unless it alone is larger than all that may be kept."""
        if len(data) > self._limit_bytes:
            return
        with self._lock:
            self._size_bytes += len(data) - len(self._entries.pop(key, _NOTHING).data)
            self._entries[key] = Held(data)
            while self._size_bytes > self._limit_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._size_bytes -= len(oldest.data)
                self._num_evicted += 1

    def drop(self, key: Digest) -> None:
        """Forget an entry; it is no error if there is none."""
        with self._lock:
            self._size_bytes -= len(self._entries.pop(key, _NOTHING).data)

    @property
    def stats(self) -> MemoryStats:
        """Return what the tier holds now."""
        with self._lock:
            return MemoryStats(
                num_entries=len(self._entries),
                size_bytes=self._size_bytes,
                limit_bytes=self._limit_bytes,
                num_evicted=self._num_evicted,
            )
