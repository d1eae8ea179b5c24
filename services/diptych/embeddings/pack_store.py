"""Embeddings in packs: one process's view of a namespace that many processes write to.

What is put is gathered and written as packs; keys are found through the packs' indices, which are
held in memory and looked for anew when a key is not found. No lock is needed between processes: a
pack never changes, the same entry in two packs is harmless, and a pack that goes is a miss.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.digest import Digest
from diptych.embeddings.gathering import Gathering
from diptych.embeddings.key_table import Keys, KeyTable, keys_of
from diptych.embeddings.pack import PackRef, Rows
from diptych.embeddings.packs import Packs
from diptych.embeddings.read_ahead import read_ahead
from diptych.errors import BlobNotFound, DiptychError
from diptych.storage.blobs import BlobStore

__all__ = ["PackConfig", "PackStore", "StoreStats"]

_log = logging.getLogger(__name__)
_TOUCH_S: Final = 30.0
"""A pack is noted as used at most this often."""
_AT_ONCE: Final = 32
"""Indices that one thread reads one after another."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig:
    """How entries are gathered into packs, and how they are read."""

    pack_bytes: int = 64 * 2**20
    """A pack is written when this many bytes wait."""
    max_age_s: float = 10.0
    """Or when the first of them has waited for so long."""
    refresh_s: float = 5.0
    """Packs of other processes are looked for at most this often."""
    num_readers: int = 4
    """Threads that read ahead and check digests."""
    chunk_bytes: int = 4 * 2**20
    """Bytes that one thread reads at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What the store holds, and what went wrong since this process opened it."""

    location: str
    num_packs: int
    num_entries: int
    """Copies in several packs are counted."""
    size_bytes: int
    num_waiting: int
    """Entries that are not yet in a pack."""
    num_damaged: int
    """Entries found damaged and put aside."""
    num_damaged_packs: int
    """Packs found damaged and put aside."""
    num_in_damaged_packs: int
    """Entries that went with them."""
    num_failed_writes: int
    num_lost: int
    """Entries of failed writes: they will be misses."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of one pack that follow each other, and their places in what was asked for."""

    ref: PackRef | None
    """None where it went meanwhile."""
    rows: Rows
    asked: Sequence[int]


class PackStore:
    """Safe to use from many threads; owns its index and what waits to be written."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        namespace: str = "default",
        config: PackConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.packs = Packs(blobs, namespace=namespace)
        self.config = config or PackConfig()
        self.pool = ThreadPoolExecutor(self.config.num_readers, thread_name_prefix="packs")
        self._gathering = Gathering(
            self.write_pack,
            limit_bytes=self.config.pack_bytes,
            max_age_s=self.config.max_age_s,
        )
        self._clock = clock
        self._refreshing = threading.Lock()
        self._refreshed_s = -math.inf
        self._refresh_failure: tuple[float, DiptychError | None] = (-math.inf, None)
        self._lock = threading.Lock()
        """Guards everything below; never held while bytes move."""
        self._table = KeyTable()
        self._refs: dict[int, PackRef] = {}
        self._numbers: dict[str, int] = {}
        self._next_number = 0
        self._touched_s: dict[str, float] = {}
        self._num_damaged = self._num_damaged_packs = self._num_in_damaged_packs = 0

    def get(self, key: Digest) -> bytes | None:
        """Return an entry, checked; None if there is none, or only a damaged one.

        Raises:
            SourceUnavailable: The store does not answer.
        """
        raw = bytes.fromhex(key.hex)
        data = self._find(raw)
        if data is None and self._refresh_if_due():
            data = self._find(raw)
        return data

    def read_many(self, keys: Iterable[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield those entries of ``keys`` that are here, pack after pack, reading ahead.

        A key that is asked for twice is read twice. Raises what ``get`` does.
        """
        asked = list(keys)
        numbers = _numbers_of(asked)
        rows, packs = self._find_many(numbers)
        for absent in np.flatnonzero(packs < 0):
            data = self._gathering.get(numbers[absent].tobytes())
            if data is not None:
                yield asked[absent], data
        chunks = self._chunks(rows, packs)
        num_ahead = 2 * self.config.num_readers
        for found in read_ahead(chunks, self._read_chunk, pool=self.pool, num_ahead=num_ahead):
            for at, data in found:
                again = self.get(asked[at]) if data is None else data
                if again is not None:
                    yield asked[at], again

    def missing(self, keys: Iterable[Digest]) -> list[Digest]:
        """Return those of ``keys`` that are not here, in their order; raises what ``get`` does."""
        asked = list(keys)
        numbers = _numbers_of(asked)
        _, packs = self._find_many(numbers)
        return [
            asked[at]
            for at in np.flatnonzero(packs < 0)
            if self._gathering.get(numbers[at].tobytes()) is None
        ]

    def sizes(self, keys: Iterable[Digest]) -> dict[Digest, int]:
        """Return the bytes of those of ``keys`` that are here; raises what ``get`` does."""
        asked = list(keys)
        numbers = _numbers_of(asked)
        rows, packs = self._find_many(numbers)
        found = {asked[at]: int(rows["size"][at]) for at in np.flatnonzero(packs >= 0)}
        for at in np.flatnonzero(packs < 0):
            data = self._gathering.get(numbers[at].tobytes())
            if data is not None:
                found[asked[at]] = len(data)
        return found

    def put(self, key: Digest, data: bytes) -> None:
        """Take an entry; it is in a pack after ``flush``, or by itself soon.

        Raises:
            StoreFull: A pack was due and there is no room; what waited is lost.
            SourceUnavailable: A pack was due and could not be written; what waited is lost.
        """
        raw = bytes.fromhex(key.hex)
        if not self._table.find(raw):
            self._gathering.put(raw, data)

    def flush(self) -> None:
        """Write what waits: all that was put before is in packs then. Raises what ``put`` does."""
        self._gathering.flush()

    @property
    def write_failures(self) -> tuple[int, DiptychError | None]:
        """Return how many writes failed, whoever put what they held, and why the last did."""
        return self._gathering.failures

    def close(self) -> None:
        """Flush, and end the threads."""
        try:
            self.flush()
        finally:
            self.pool.shutdown()

    def keys(self) -> Iterator[Digest]:
        """Yield the key of every entry in packs, once, as far as this process has seen them."""
        for raw in self._table.each_key():
            yield Digest(hex=raw.hex())

    def refresh(self) -> None:
        """See which packs there are now; raises ``SourceUnavailable``."""
        with self._refreshing:
            self._refresh()

    @property
    def num_packs(self) -> int:
        """How many packs this process has seen."""
        return len(self._refs)

    def refs(self) -> list[PackRef]:
        """Return the packs that this process has seen."""
        with self._lock:
            return list(self._refs.values())

    def write_pack(self, entries: Mapping[bytes, bytes]) -> None:
        """Write entries by their keys [32 bytes] as one pack now; raises what ``put`` does."""
        ref, rows = self.packs.write(entries.items())
        with self._lock:
            self._add([(ref, rows)])

    def remove(self, refs: Sequence[PackRef]) -> None:
        """Remove packs from the store; raises ``SourceUnavailable``."""
        for ref in refs:
            self.packs.remove(ref)
        self.forget(refs)

    def forget(self, refs: Iterable[PackRef]) -> None:
        """Drop packs from the index: they are gone."""
        with self._lock:
            numbers = [self._numbers[ref.name] for ref in refs if ref.name in self._numbers]
            for number in numbers:
                name = self._refs.pop(number).name
                del self._numbers[name]
                self._touched_s.pop(name, None)
            self._table.drop_packs(numbers)

    def read_rows(self, ref: PackRef, rows: Rows) -> list[bytes | None]:
        """Return the entries of rows in order of their offsets; damaged ones are put aside: None.

        All are None where the pack is gone. Raises ``SourceUnavailable``.
        """
        self._touch(ref)
        try:
            found = list(self.packs.entries(ref, rows))
            for at in [at for at, data in enumerate(found) if data is None]:
                found[at] = self._read_again(ref, rows[at : at + 1])
        except BlobNotFound:
            self.forget([ref])
            return [None] * len(rows)
        return found

    def stats(self) -> StoreStats:
        """Return what this process knows of the store, without looking again."""
        gathering = self._gathering.stats
        with self._lock:
            return StoreStats(
                location=self.packs.location,
                num_packs=len(self._refs),
                num_entries=len(self._table),
                size_bytes=sum(ref.size_bytes for ref in self._refs.values()),
                num_waiting=gathering.num_waiting,
                num_damaged=self._num_damaged,
                num_damaged_packs=self._num_damaged_packs,
                num_in_damaged_packs=self._num_in_damaged_packs,
                num_failed_writes=gathering.num_failed_writes,
                num_lost=gathering.num_lost,
            )

    def _find(self, raw: bytes) -> bytes | None:
        data = self._gathering.get(raw)
        if data is not None:
            return data
        for place in self._table.find(raw):
            ref = self._refs.get(place.pack)
            data = None if ref is None else self.read_rows(ref, place.rows)[0]
            if data is not None:
                return data
        return None

    def _find_many(self, keys: Keys) -> tuple[Rows, Numbers]:
        found = self._table.find_many(keys)
        if (found[1] < 0).any() and self._refresh_if_due():
            found = self._table.find_many(keys)
        return found

    def _refresh(self) -> None:
        try:
            self._look()
        except DiptychError as error:
            self._refresh_failure = (self._clock(), error)
            raise

    def _look(self) -> None:
        known = self.refs()
        listed, hidden = self.packs.listing(), self.packs.quarantined()
        names = {ref.name for ref in listed}
        self.forget([ref for ref in known if ref.name not in names])
        with self._lock:
            new = [ref for ref in listed if ref.name not in self._numbers]
        parts = [new[at : at + _AT_ONCE] for at in range(0, len(new), _AT_ONCE)]
        found = [pair for part in self.pool.map(self._rows, parts) for pair in part]
        with self._lock:
            self._add(found)
            for name in hidden.keys() & self._numbers.keys():
                for raw in hidden[name]:
                    self._table.drop(raw, self._numbers[name])
        self._refreshed_s = self._clock()

    def _refresh_if_due(self) -> bool:
        """Refresh unless that was done just now; tell whether it was done."""
        asked_s = self._clock()
        if asked_s - self._refreshed_s < self.config.refresh_s:
            return False
        with self._refreshing:
            failed_s, error = self._refresh_failure
            if error is not None and failed_s >= asked_s:
                raise error  # whoever waited for a look that failed need not fail anew
            if self._refreshed_s < asked_s:
                self._refresh()
        return True

    def _rows(self, refs: Sequence[PackRef]) -> list[tuple[PackRef, Rows]]:
        """Return the rows of those packs that are there and whole."""
        found = []
        for ref in refs:
            rows = self.packs.rows(ref)
            if rows is not None:
                found.append((ref, rows))
            elif self.packs.is_put_aside(ref):
                with self._lock:
                    self._num_damaged_packs += 1
                    self._num_in_damaged_packs += ref.num_entries
        return found

    def _chunks(self, rows: Rows, packs: Numbers) -> Iterator[_Chunk]:
        """Yield what is asked of packs, pack after pack, in pieces that one thread reads."""
        order = np.lexsort((rows["offset"], packs))[np.count_nonzero(packs < 0) :]
        starts = rows["offset"][order].astype(np.int64)
        ends = starts + rows["size"][order].astype(np.int64)
        begin = 0
        for at in range(1, len(order) + 1):
            if at < len(order):
                is_next = packs[order[at]] == packs[order[begin]] and starts[at] == ends[at - 1]
                if is_next and ends[at] - starts[begin] <= self.config.chunk_bytes:
                    continue
            part, begin = order[begin:at], at
            yield _Chunk(self._refs.get(int(packs[part[0]])), rows[part], part.tolist())

    def _read_chunk(self, chunk: _Chunk) -> list[tuple[int, bytes | None]]:
        if chunk.ref is None:
            return [(at, None) for at in chunk.asked]
        return list(zip(chunk.asked, self.read_rows(chunk.ref, chunk.rows), strict=True))

    def _touch(self, ref: PackRef) -> None:
        now_s = self._clock()
        if now_s - self._touched_s.get(ref.name, -math.inf) > _TOUCH_S:
            self._touched_s[ref.name] = now_s
            self.packs.touch(ref)

    def _read_again(self, ref: PackRef, row: Rows) -> bytes | None:
        """Read an entry that seemed damaged once more; put it aside if it is."""
        data = next(self.packs.entries(ref, row))
        if data is not None:
            return data
        raw = row["key"][0].tobytes()
        with self._lock:
            self._num_damaged += 1
            if ref.name in self._numbers:
                self._table.drop(raw, self._numbers[ref.name])
        _log.error("entry %s of %s/%s is damaged", raw.hex(), self.packs.location, ref.name)
        try:
            self.packs.put_aside(ref, row)
        except DiptychError as error:
            _log.warning("it cannot be put aside: %s", error)
        return None

    def _add(self, packs: Sequence[tuple[PackRef, Rows]]) -> None:
        """Put packs into the index; the lock is held."""
        numbered = []
        for ref, rows in packs:
            if ref.name in self._numbers:
                continue  # written here while it was listed
            self._refs[self._next_number], self._numbers[ref.name] = ref, self._next_number
            numbered.append((self._next_number, rows))
            self._next_number += 1
        self._table.add(numbered)


def _numbers_of(keys: Sequence[Digest]) -> Keys:
    return keys_of(bytes.fromhex("".join(key.hex for key in keys)))
