"""Where embeddings are looked for: memory, then packs on this machine's disk, then packs on S3.

The last tier of packs is the one that lasts: a disk in front of S3 is a cache of bounded size, of
which the packs unused for longest go. A tier that fails is passed over, rested and counted: reads
become misses, and the caller encodes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from diptych.digest import Digest
from diptych.embeddings.memory import MemoryStats, MemoryTier
from diptych.embeddings.pack_store import PackConfig, PackStore, StoreStats
from diptych.embeddings.removal import delete_entries, evict_packs
from diptych.embeddings.tier import Tier, TierObserver
from diptych.errors import DiptychError, FieldViolation, SettingInvalid
from diptych.storage.blobs import BlobStore
from diptych.storage.local import LocalBlobs

if TYPE_CHECKING:
    from diptych.storage.s3 import S3Store

__all__ = [
    "NO_OBSERVER",
    "StoreConfig",
    "TierStats",
    "TieredStore",
    "bucket_of",
    "open_packs",
    "open_store",
]

_REMOTE_CHUNK_BYTES: Final = 16 * 2**20
"""A request to a bucket should be worth its way."""
_REMOTE_TIMEOUT_S: Final = 15.0
"""Without a byte from a bucket; encoding anew takes less."""


class _NoObserver:
    def hit(self, tier: str, kind: str) -> None:
        """Count nothing."""

    def miss(self, kind: str) -> None:
        """Count nothing."""

    def failed(self, tier: str, operation: str) -> None:
        """Count nothing."""

    def evicted(self, tier: str, num_entries: int, size_bytes: int) -> None:
        """Count nothing."""


NO_OBSERVER: Final = _NoObserver()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Where embeddings are kept; at least one of ``folder`` and ``s3_uri`` for them to last."""

    folder: Path | None = None
    s3_uri: str | None = None
    """``s3://bucket/prefix``"""
    s3_endpoint: str | None = None
    s3_region: str | None = None
    namespace: str = "default"
    memory_bytes: int = 2**30
    disk_bytes: int = 64 * 2**30
    """Of ``folder`` in front of S3. Without S3 the folder is bounded by ``gc``."""
    packs: PackConfig = field(default_factory=PackConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """What each tier holds; None where there is no such tier."""

    memory: MemoryStats
    disk: StoreStats | None
    remote: StoreStats | None


class TieredStore:
    """All tiers as one store; safe to use from many threads."""

    def __init__(
        self,
        *,
        memory: MemoryTier,
        disk: PackStore | None = None,
        remote: PackStore | None = None,
        disk_bytes: int | None = None,
        observer: TierObserver = NO_OBSERVER,
    ) -> None:
        self.memory = memory
        self._tiers = [
            Tier(name, store, observer)
            for name, store in (("disk", disk), ("remote", remote))
            if store is not None
        ]
        self._disk_bytes = disk_bytes if disk and remote else None
        self._observer = observer
        self._num_packs = 0
        self._num_deletions = 0
        """What was read before the last of them is not put back above."""

    @property
    def lasting(self) -> PackStore | None:
        """The packs that last, with the roots beside them; None if there is only memory."""
        return self._tiers[-1].store if self._tiers else None

    def get(self, key: Digest, *, kind: str) -> bytes | None:
        """Return an entry, checked, and keep it in the tiers above; None is a miss."""
        found = self.find(key, kind=kind)
        return None if found is None else found[1]

    def find(self, key: Digest, *, kind: str) -> tuple[str, bytes] | None:
        """Return an entry as ``get`` does, and the tier that had it."""
        data = self.memory.get(key)
        if data is not None:
            self._observer.hit("memory", kind)
            return "memory", data
        num_deletions = self._num_deletions
        for depth, tier in enumerate(self._tiers):
            data = tier.get(key)
            if data is not None:
                self._observer.hit(tier.name, kind)
                if num_deletions == self._num_deletions:
                    self._fill(key, data, depth)
                return tier.name, data
        self._observer.miss(kind)
        return None

    def locate(self, keys: Iterable[Digest]) -> dict[Digest, str]:
        """Return the nearest tier of those of ``keys`` that are somewhere; reads no entry.

        A tier that does not answer has none, as for ``get``.
        """
        asked = list(dict.fromkeys(keys))
        found = {key: "memory" for key in asked if self.memory.has(key)}
        left = [key for key in asked if key not in found]
        for tier in self._tiers:
            missing = tier.missing(left)
            absent = set(missing)
            found |= {key: tier.name for key in left if key not in absent}
            left = missing
        return found

    def read_many(self, keys: Iterable[Digest], *, kind: str) -> Iterator[tuple[Digest, bytes]]:
        """Yield those entries of ``keys`` that are somewhere, each once, not in their order."""
        left = dict.fromkeys(keys)
        for key in list(left):
            data = self.memory.get(key)
            if data is not None:
                del left[key]
                self._observer.hit("memory", kind)
                yield key, data
        num_deletions = self._num_deletions
        for depth, tier in enumerate(self._tiers):
            for key, data in tier.read_many(list(left)):
                del left[key]
                self._observer.hit(tier.name, kind)
                if num_deletions == self._num_deletions:
                    self._fill(key, data, depth)
                yield key, data
        for _ in left:
            self._observer.miss(kind)

    def sizes(self, keys: Iterable[Digest]) -> dict[Digest, int]:
        """Return the bytes of those of ``keys`` that are somewhere; reads and counts nothing.

        Raises:
            SourceUnavailable: A tier does not answer, so it cannot be told.
        """
        left = dict.fromkeys(keys)
        found = {key: len(data) for key in left if (data := self.memory.get(key)) is not None}
        for tier in self._tiers:
            found |= tier.store.sizes([key for key in left if key not in found])
        return found

    def missing(self, keys: Iterable[Digest]) -> list[Digest]:
        """Return those of ``keys`` that are in no tier, in their order.

        Raises:
            SourceUnavailable: A tier does not answer, so it cannot be told.
        """
        left = [key for key in dict.fromkeys(keys) if not self.memory.has(key)]
        for tier in self._tiers:
            left = tier.store.missing(left) if left else left
        return left

    def put(self, key: Digest, data: bytes) -> None:
        """Keep an entry in every tier; a tier that cannot write is counted, and ``flush`` tells."""
        self.memory.put(key, data)
        for tier in self._tiers:
            tier.put(key, data)
        self._bound()

    @property
    def num_failed_writes(self) -> int:
        """How many writes to the tier that lasts failed, for ``flush`` to tell of those since."""
        return 0 if self.lasting is None else self.lasting.write_failures[0]

    def flush(self, *, since: int | None = None) -> None:
        """Write what waits.

        Args:
            since: What ``num_failed_writes`` was before what should last was put: of many who put
                and flush at once, everyone is told of a failure that may have been theirs.

        Raises:
            StoreFull: The tier that lasts has no room, now or at a ``put`` since the last flush.
            SourceUnavailable: It could not be written to, now or then.
        """
        for tier in self._tiers:
            tier.flush()
        self._bound()
        if self._tiers:
            last = self._tiers[-1]
            failure, last.write_error = last.write_error, None
            num_failed, latest = last.store.write_failures
            if since is not None:
                failure = latest if num_failed > since else None
            if failure is not None:
                raise failure

    def delete(self, keys: Iterable[Digest]) -> int:
        """Remove entries from every tier; return how many the last had. Raises as ``flush``."""
        gone, num_gone = list(keys), 0
        try:
            for tier in self._tiers:
                num_gone = delete_entries(tier.store, gone)
        finally:
            self._num_deletions += 1
            for key in gone:
                self.memory.drop(key)
        return num_gone

    def close(self) -> None:
        """Flush, and end the threads; raises as ``flush``."""
        try:
            self.flush()
        finally:
            for tier in self._tiers:
                tier.store.pool.shutdown()

    def stats(self) -> TierStats:
        """Return what each tier holds, as far as this process knows."""
        held = {tier.name: tier.store.stats() for tier in self._tiers}
        return TierStats(memory=self.memory.stats, disk=held.get("disk"), remote=held.get("remote"))

    def _fill(self, key: Digest, data: bytes, depth: int) -> None:
        self.memory.put(key, data)
        for tier in self._tiers[:depth]:
            tier.put(key, data)
        self._bound()

    def _bound(self) -> None:
        """Let the disk's packs that were unused for longest go, when a new one was written."""
        if self._disk_bytes is None:
            return
        disk = self._tiers[0]
        num_packs = disk.store.num_packs
        if num_packs == self._num_packs:
            return
        try:
            evicted = evict_packs(disk.store, self._disk_bytes)
        except DiptychError as error:
            disk.read_failed(error)
            return
        self._num_packs = disk.store.num_packs
        if evicted:
            num_entries = sum(ref.num_entries for ref in evicted)
            self._observer.evicted("disk", num_entries, sum(ref.size_bytes for ref in evicted))


def open_store(config: StoreConfig, *, observer: TierObserver = NO_OBSERVER) -> TieredStore:
    """Return the tiers that ``config`` names.

    Raises:
        SettingInvalid: The folder cannot be made, or the S3 address is none.
    """
    return TieredStore(
        memory=MemoryTier(config.memory_bytes),
        disk=None if config.folder is None else _open(_in_folder(config.folder), config),
        remote=None if config.s3_uri is None else _open(_in_bucket(config), config),
        disk_bytes=config.disk_bytes,
        observer=observer,
    )


def open_packs(config: StoreConfig) -> PackStore | None:
    """Return only the packs that last, for upkeep; raises what ``open_store`` does."""
    if config.s3_uri is not None:
        return _open(_in_bucket(config), config)
    return None if config.folder is None else _open(_in_folder(config.folder), config)


def _open(blobs: BlobStore, config: StoreConfig) -> PackStore:
    packs = config.packs
    if blobs.local_path(config.namespace) is None:
        packs = replace(packs, chunk_bytes=max(packs.chunk_bytes, _REMOTE_CHUNK_BYTES))
    return PackStore(blobs, namespace=config.namespace, config=packs)


def _in_folder(folder: Path) -> BlobStore:
    try:
        return LocalBlobs(folder)
    except OSError as error:
        description = f"{folder} cannot be made: {error.strerror}"
        raise SettingInvalid([FieldViolation(field="folder", description=description)]) from error


def bucket_of(config: StoreConfig) -> "tuple[S3Store, str]":
    """Return the bucket that ``config`` names, and the prefix in it.

    Raises:
        SettingInvalid: The S3 address is none.
    """
    from diptych.storage.s3 import S3Config, S3Store  # noqa: PLC0415 - boto3 is an extra

    bucket, _, prefix = str(config.s3_uri).removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not str(config.s3_uri).startswith("s3://") or not bucket or not prefix:
        description = f"expected s3://bucket/prefix, not {str(config.s3_uri)[:80]!r}"
        raise SettingInvalid([FieldViolation(field="s3_uri", description=description)])
    s3 = S3Config(
        endpoint_url=config.s3_endpoint,
        region=config.s3_region,
        read_timeout_s=_REMOTE_TIMEOUT_S,
    )
    return S3Store(bucket, s3), prefix


def _in_bucket(config: StoreConfig) -> BlobStore:
    from diptych.storage.s3_blobs import S3Blobs  # noqa: PLC0415 - boto3 is an extra

    store, prefix = bucket_of(config)
    return S3Blobs(store, prefix=prefix)
