"""Entries on their way into packs: gathered until enough wait, or one has waited long enough."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from diptych.errors import DiptychError

__all__ = ["Gathering", "GatheringStats"]

_log = logging.getLogger(__name__)
_Batch = dict[bytes, bytes]
_Write = Callable[[Mapping[bytes, bytes]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheringStats:
    """What waits, and what could not be written."""

    num_waiting: int
    num_failed_writes: int
    num_lost: int
    """Entries of failed writes: they will be misses."""


class Gathering:
    """Entries by key, readable until they are written; safe to use from many threads.

    ``write`` stores a batch, and is called by whoever puts the entry that fills it, by ``flush``,
    or by a timer. A batch that cannot be written is lost: memory stays bounded on a full disk.
    """

    def __init__(
        self,
        write: Callable[[Mapping[bytes, bytes]], object],
        *,
        limit_bytes: int,
        max_age_s: float,
    ) -> None:
        self._write_batch = write
        self._limit_bytes, self._max_age_s = limit_bytes, max_age_s
        self._changed = threading.Condition()
        """Guards everything below; never held while a batch is written."""
        self._waiting: _Batch = {}
        self._waiting_bytes = 0
        self._writing: list[_Batch] = []
        self._timer: threading.Timer | None = None
        self._num_failed_writes = self._num_lost = 0
        self._failure: DiptychError | None = None

    def get(self, key: bytes) -> bytes | None:
        """Return an entry that waits or is being written."""
        with self._changed:
            for batch in (self._waiting, *self._writing):
                if key in batch:
                    return batch[key]
        return None

    def put(self, key: bytes, data: bytes) -> None:
        """Take an entry, and write all that wait if they are enough; raises what ``write`` does."""
        with self._changed:
            if key in self._waiting:
                return
            self._waiting[key] = data
            self._waiting_bytes += len(data)
            batch = self._take() if self._waiting_bytes >= self._limit_bytes else None
            if batch is None and self._timer is None:
                self._timer = threading.Timer(self._max_age_s, self._flush_late)
                self._timer.daemon = True
                self._timer.start()
        if batch:
            self._write(batch)

    def flush(self) -> None:
        """Write what waits, and wait for what others write now; raises what ``write`` does."""
        with self._changed:
            others, batch = list(self._writing), self._take()
        if batch:
            self._write(batch)
        with self._changed:
            self._changed.wait_for(lambda: not _have_common(others, self._writing))

    @property
    def stats(self) -> GatheringStats:
        """Return what waits now."""
        with self._changed:
            return GatheringStats(
                num_waiting=len(self._waiting) + sum(len(batch) for batch in self._writing),
                num_failed_writes=self._num_failed_writes,
                num_lost=self._num_lost,
            )

    @property
    def failures(self) -> tuple[int, DiptychError | None]:
        """Return how many writes failed, whoever began them, and why the last did."""
        with self._changed:
            return self._num_failed_writes, self._failure

    def _flush_late(self) -> None:
        try:
            self.flush()
        except DiptychError:
            _log.warning("what waited to be written is lost", exc_info=True)

    def _take(self) -> _Batch:
        """Return what waits, to be written now; the lock is held."""
        batch, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if batch:
            self._writing.append(batch)
        return batch

    def _write(self, batch: _Batch) -> None:
        is_written, failure = False, None
        try:
            self._write_batch(batch)
            is_written = True
        except DiptychError as error:
            failure = error
            raise
        finally:
            with self._changed:
                self._writing = [other for other in self._writing if other is not batch]
                self._num_failed_writes += not is_written
                self._failure = failure or self._failure
                self._num_lost += 0 if is_written else len(batch)
                self._changed.notify_all()


def _have_common(some: Sequence[_Batch], others: Sequence[_Batch]) -> bool:
    return any(one is other for one in some for other in others)
