"""One tier of packs, that may fail without failing whoever asks."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from diptych.digest import Digest
from diptych.embeddings.pack_store import PackStore
from diptych.errors import DiptychError

__all__ = ["Tier", "TierObserver"]

_log = logging.getLogger(__name__)

_REST_S: Final = 10.0
"""A tier whose reads failed is not asked again before."""
_REST_FACTOR: Final = 5.0
"""Nor before so many times as long as it took to fail: who asks next waits as long."""
_MAX_REST_S: Final = 300.0


class TierObserver(Protocol):
    """Counts what happens; methods are called from any thread and must not block."""

    def hit(self, tier: str, kind: str) -> None:
        """An entry was found in ``memory``, ``disk`` or ``remote``."""

    def miss(self, kind: str) -> None:
        """An entry was in no tier."""

    def failed(self, tier: str, operation: str) -> None:
        """A tier's ``read`` or ``write`` failed."""

    def evicted(self, tier: str, num_entries: int, size_bytes: int) -> None:
        """Entries went from ``disk`` because there was no more room for them."""


class Tier:
    """Packs with a name, left alone for a while after a read of them failed."""

    def __init__(
        self,
        name: str,
        store: PackStore,
        observer: TierObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.store = name, store
        self._observer, self._clock = observer, clock
        self._rests_until_s = 0.0
        self.write_error: DiptychError | None = None

    def get(self, key: Digest) -> bytes | None:
        """Return an entry; None if there is none or the packs rest or fail."""
        if self.rests:
            return None
        began_s = self._clock()
        try:
            return self.store.get(key)
        except DiptychError as error:
            self.read_failed(error, self._clock() - began_s)
            return None

    def read_many(self, keys: list[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield what there is of ``keys``, until the packs fail."""
        if self.rests or not keys:
            return
        began_s = self._clock()
        try:
            for found in self.store.read_many(keys):
                yield found
                began_s = self._clock()
        except DiptychError as error:
            self.read_failed(error, self._clock() - began_s)

    def missing(self, keys: list[Digest]) -> list[Digest]:
        """Return those of ``keys`` that are not known to be here."""
        if self.rests or not keys:
            return keys
        began_s = self._clock()
        try:
            return self.store.missing(keys)
        except DiptychError as error:
            self.read_failed(error, self._clock() - began_s)
            return keys

    def put(self, key: Digest, data: bytes) -> None:
        """Keep an entry, if the packs can."""
        try:
            self.store.put(key, data)
        except DiptychError as error:
            self.write_failed(error)

    def flush(self) -> None:
        """Write what waits, if the packs can."""
        try:
            self.store.flush()
        except DiptychError as error:
            self.write_failed(error)

    @property
    def rests(self) -> bool:
        """Whether reads are passed over now."""
        return self._clock() < self._rests_until_s

    def write_failed(self, error: DiptychError) -> None:
        """Count a write that failed, and keep why in ``write_error``."""
        self.write_error = error
        self._observer.failed(self.name, "write")
        _log.warning("embeddings are not kept in %s: %s", self.name, error)

    def read_failed(self, error: DiptychError, after_s: float = 0.0) -> None:
        """Count a read that failed ``after_s``, and let reads rest in proportion."""
        rest_s = min(max(_REST_S, _REST_FACTOR * after_s), _MAX_REST_S)
        self._rests_until_s = self._clock() + rest_s
        self._observer.failed(self.name, "read")
        _log.warning("embeddings are not read from %s for a while: %s", self.name, error)
