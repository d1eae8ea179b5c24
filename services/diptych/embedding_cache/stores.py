"""Each tenant's embeddings in tiers of its own, and what is counted of them together."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Protocol

from typing_extensions import override

from diptych.digest import Digest
from diptych.embedding_cache.claims import sweep_claims
from diptych.embedding_cache.ports import Found, Reclaimed, StoreCounts, TierCounts
from diptych.embeddings.memory import Held
from diptych.embeddings.roots import RootInfo, Roots
from diptych.embeddings.tier import TierObserver
from diptych.embeddings.tiers import StoreConfig, TieredStore, open_store
from diptych.embeddings.upkeep import GcReport, gc
from diptych.errors import DiptychError
from diptych.telemetry.cache_metrics import TierReading

__all__ = ["OnLook", "RootCount", "TenantStore", "TenantStores"]

_log = logging.getLogger(__name__)

ROOTS_WAIT_S: Final = 1.0
"""A scrape and a call wait no longer for a bucket to list its roots."""
UNKNOWN: Final = "unknown"
"""Kind of what is asked for by its key alone."""


class OnLook(Protocol):
    """Hears of every look for an embedding; called from any thread."""

    def __call__(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Note a look in ``tier``; a miss is one in all tiers, under the name ``all``."""


class _Counting(TierObserver):
    """What one tenant's tiers did, counted here and told on."""

    def __init__(self, on_look: OnLook) -> None:
        self.hits: Counter[str] = Counter()
        self.num_misses = 0
        self.evictions: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._on_look = on_look

    @override
    def hit(self, tier: str, kind: str) -> None:
        """Count a hit."""
        with self._lock:
            self.hits[tier] += 1
        self._on_look(tier=tier, kind=kind, is_hit=True)

    @override
    def miss(self, kind: str) -> None:
        """Count a miss."""
        with self._lock:
            self.num_misses += 1
        self._on_look(tier="all", kind=kind, is_hit=False)

    @override
    def failed(self, tier: str, operation: str) -> None:
        """Count a failure."""
        with self._lock:
            self.failures[tier, operation] += 1

    @override
    def evicted(self, tier: str, num_entries: int, size_bytes: int) -> None:
        """Count evictions."""
        del size_bytes
        with self._lock:
            self.evictions[tier] += num_entries


class RootLister(Protocol):
    """The part of ``Roots`` that is needed to count them."""

    def roots(self) -> Sequence[RootInfo]:
        """Return every root."""


class RootCount:
    """How many roots there are in a store that may be slow to tell, or unable to."""

    def __init__(
        self, roots: RootLister, pool: ThreadPoolExecutor, *, wait_s: float = ROOTS_WAIT_S
    ) -> None:
        self._roots, self._pool, self._wait_s = roots, pool, wait_s
        self._lock = threading.Lock()
        self._looking: Future[int] | None = None
        self._last = 0

    def read(self) -> int:
        """Return how many there are, or were when that could last be told."""
        with self._lock:
            if self._looking is None:
                self._looking = self._pool.submit(lambda: len(self._roots.roots()))
            looking = self._looking
        try:
            self._last = looking.result(self._wait_s)
        except TimeoutError:
            return self._last
        except DiptychError as error:
            _log.warning("datasets and pins cannot be counted: %s", error)
        with self._lock:
            if self._looking is looking:
                self._looking = None
        return self._last


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStore:
    """One tenant's store as the service uses it."""

    tiers: TieredStore
    roots: Roots | None
    root_count: RootCount | None
    limits: dict[str, int]
    """Bytes by tier; 0 for none."""
    counting: _Counting

    def peek(self, key: Digest) -> Held | None:
        """Return what memory holds of ``key``."""
        return self.tiers.memory.held(key)

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, str]:
        """Return the nearest tier of those of ``keys`` that are there."""
        return self.tiers.locate(keys)

    def missing(self, keys: Sequence[Digest]) -> list[Digest]:
        """Return those of ``keys`` that are nowhere.

        Raises:
            SourceUnavailable: A tier does not answer, so it cannot be told.
        """
        return self.tiers.missing(keys)

    def read(self, key: Digest, *, kind: str) -> Found | None:
        """Return an embedding, None if it is not there or turned out damaged."""
        found = self.tiers.find(key, kind=kind)
        if found is None:
            return None
        tier, value = found
        return Found(source=tier, size_bytes=len(value), value=value)

    def read_many(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield those of ``keys`` that are there."""
        return self.tiers.read_many(keys, kind=UNKNOWN)

    def count(self, tier: str | None, *, kind: str) -> None:
        """Count a hit in ``tier``, or a miss."""
        if tier is None:
            self.counting.miss(kind)
        else:
            self.counting.hit(tier, kind)

    def write(self, key: Digest, value: bytes) -> bool:
        """Keep an embedding; tell whether it was new."""
        is_new = not self.tiers.locate([key])
        self.tiers.put(key, value)
        return is_new

    @property
    def num_failed_writes(self) -> int:
        """How many writes failed so far."""
        return self.tiers.num_failed_writes

    def flush(self, *, since: int | None = None) -> None:
        """Make everything written so far last; raises as ``TieredStore.flush`` does."""
        self.tiers.flush(since=since)

    def refresh(self) -> None:
        """See what other processes have written."""
        if self.tiers.lasting is not None:
            self.tiers.lasting.refresh()

    def hold(self, name: str, keys: Sequence[Digest]) -> None:
        """Keep ``keys`` from being collected, as ``name``; memory alone collects nothing."""
        if self.roots is not None:
            self.roots.write_root(name, keys)

    def sweep(self) -> None:
        """Remove what the claims of warm-ups of long ago have left."""
        if self.tiers.lasting is not None:
            sweep_claims(self.tiers.lasting.packs)

    def evict(self, keys: Sequence[Digest], *, is_dry_run: bool) -> Reclaimed:
        """Drop embeddings, whatever needs them."""
        sizes = self.tiers.sizes(keys)
        if sizes and not is_dry_run:
            self.tiers.delete(list(sizes))
        kept = self.tiers.stats()
        lasting = kept.remote or kept.disk
        return Reclaimed(
            num_evicted=len(sizes),
            evicted_bytes=sum(sizes.values()),
            num_kept=lasting.num_entries if lasting else kept.memory.num_entries,
            kept_bytes=lasting.size_bytes if lasting else kept.memory.size_bytes,
        )

    def reclaim(
        self, *, older_than_s: float | None, budget_bytes: int | None, is_dry_run: bool
    ) -> Reclaimed:
        """Drop what no root needs, by age and by what may be left."""
        lasting = self.tiers.lasting
        if lasting is None:
            return Reclaimed(num_evicted=0, evicted_bytes=0, num_kept=0, kept_bytes=0)
        self.tiers.flush()
        report: GcReport = gc(
            lasting,
            older_than_s=older_than_s,
            budget_bytes=budget_bytes,
            is_dry_run=is_dry_run,
        )
        return Reclaimed(
            num_evicted=report.num_collected,
            evicted_bytes=report.collected_bytes + report.copies_bytes,
            num_kept=lasting.stats().num_entries - (report.num_collected if is_dry_run else 0),
            kept_bytes=report.kept_bytes,
        )

    def counts(self) -> StoreCounts:
        """Count what it holds and did."""
        stats = self.tiers.stats()
        held = {"memory": (stats.memory.num_entries, stats.memory.size_bytes)}
        num_damaged = 0
        for name, packs in (("disk", stats.disk), ("remote", stats.remote)):
            if packs is not None:
                held[name] = (packs.num_entries, packs.size_bytes)
                num_damaged += packs.num_damaged + packs.num_in_damaged_packs
        counting, evictions = self.counting, dict(self.counting.evictions)
        evictions["memory"] = stats.memory.num_evicted
        tiers, num_asked = [], counting.num_misses + sum(counting.hits.values())
        for name, (num_entries, size_bytes) in held.items():
            num_hits = counting.hits[name]
            num_asked -= num_hits
            tiers.append(
                TierCounts(
                    tier=name,
                    num_entries=num_entries,
                    size_bytes=size_bytes,
                    limit_bytes=self.limits.get(name, 0),
                    num_hits=num_hits,
                    num_misses=num_asked,
                    num_evictions=evictions.get(name, 0),
                )
            )
        num_roots = self.root_count.read() if self.root_count is not None else 0
        return StoreCounts(tiers=tuple(tiers), num_roots=num_roots, num_damaged=num_damaged)


class TenantStores:
    """Opens each tenant's store when it is first asked for; owns them all."""

    def __init__(self, config: StoreConfig, on_look: OnLook) -> None:
        """Keep stores as ``config`` says, each under its tenant's name."""
        self._config, self._on_look = config, on_look
        self._lock = threading.Lock()
        self._stores: dict[str, TenantStore] = {}

    def of(self, tenant: str) -> TenantStore:
        """Return the store of ``tenant``.

        Raises:
            SettingInvalid: There can be none where the settings say.
            SourceUnavailable: The bucket does not answer.
        """
        with self._lock:
            if tenant not in self._stores:
                self._stores[tenant] = self._open(tenant)
            return self._stores[tenant]

    def readings(self) -> tuple[dict[str, TierReading], int, int]:
        """Return the tiers of all tenants together, the damaged embeddings and the roots."""
        with self._lock:
            stores = list(self._stores.values())
        counts = [store.counts() for store in stores]
        tiers: dict[str, TierReading] = {}
        for tier in (tier for one in counts for tier in one.tiers):
            so_far = tiers.get(tier.tier, TierReading(num_entries=0, size_bytes=0, num_evictions=0))
            tiers[tier.tier] = TierReading(
                num_entries=so_far.num_entries + tier.num_entries,
                size_bytes=so_far.size_bytes + tier.size_bytes,
                num_evictions=so_far.num_evictions + tier.num_evictions,
            )
        num_damaged = sum(one.num_damaged for one in counts)
        return tiers, num_damaged, sum(one.num_roots for one in counts)

    def close(self) -> None:
        """Make everything written last, and end the stores' threads.

        Raises:
            DiptychError: What the last store that could not raised.
        """
        with self._lock:
            stores, self._stores = list(self._stores.values()), {}
        problem: Exception | None = None
        for store in stores:
            try:
                store.tiers.close()
            except Exception as error:  # noqa: BLE001 - the other stores are still to be closed
                problem = error
        if problem is not None:
            raise problem

    def _open(self, tenant: str) -> TenantStore:
        counting = _Counting(self._on_look)
        config = replace(self._config, namespace=tenant)
        tiers = open_store(config, observer=counting)
        limits = {"memory": config.memory_bytes}
        if config.s3_uri is not None:
            limits["disk"] = config.disk_bytes
        roots = root_count = None
        if tiers.lasting is not None:
            roots = Roots(tiers.lasting.packs)
            root_count = RootCount(roots, tiers.lasting.pool)
        return TenantStore(
            tiers=tiers, roots=roots, root_count=root_count, limits=limits, counting=counting
        )
