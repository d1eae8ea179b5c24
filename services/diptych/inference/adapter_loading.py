"""From an adapter's digest to host memory, ready for the device, in threads of its own.

The store's own disk tier lies behind the registry; here is the host tier: what was bound to this
server's networks stays until the bytes it may take are needed for others.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from diptych.adapters.adapter import Adapter
from diptych.adapters.bundle import from_bytes
from diptych.adapters.registry import Registry
from diptych.digest import Digest
from diptych.errors import DiptychError
from diptych.inference.adapter_units import Unit
from diptych.inference.isolation import as_failure
from diptych.inference.ports import Observer, Prepared
from diptych.inference.trajectory import AdapterUse
from diptych.storage.tiers import TierStats

__all__ = ["Bind", "StoreLoader"]

_log = logging.getLogger(__name__)

_NUM_THREADS: Final = 2
Uses = tuple[AdapterUse, ...]

Bind = Callable[[Uses, Sequence[Adapter]], Prepared]
"""Binds the adapters of one unit to this server's networks; from any thread."""


class StoreLoader:
    """Loads adapters from a registry; safe from any thread."""

    def __init__(
        self,
        registry: Registry,
        bind: Bind,
        *,
        host_bytes: int,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._bind = registry, bind
        self._host_bytes = host_bytes
        self._observer, self._clock = observer, clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Unit, Prepared] = OrderedDict()
        self._stats = TierStats()
        self._digests: frozenset[str] = frozenset()
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="adapters")

    def prepare(
        self,
        unit: Unit,
        uses: Uses,
        *,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        """Queue the adapters of one unit; what is in host memory waits for no fetch of others."""
        kept = self._recall(unit)
        if kept is None:
            self._pool.submit(partial(self._load, unit, uses, fetching, done))
            return
        fetching()
        self._observer.on_adapter_load(seconds=0.0, tier="host", reason=None)
        done(kept)

    def in_host(self) -> frozenset[str]:
        """Return the digests of what is kept in host memory."""
        return self._digests

    def stats(self) -> TierStats:
        """Return what the host tier holds, in adapters and bytes, and what it did."""
        with self._lock:
            return replace(self._stats, num_held=len(self._digests))

    def stop(self) -> None:
        """Drop what is queued and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _load(
        self,
        unit: Unit,
        uses: Uses,
        fetching: Callable[[], None],
        done: Callable[[Prepared | DiptychError], None],
    ) -> None:
        fetching()
        began, reason, tier = self._clock(), None, "store"
        result: Prepared | DiptychError
        try:
            tier = self._tier(uses)
            result = self._bind(uses, [self._read(use) for use in uses])
            self._keep(unit, result)
        except Exception as error:  # noqa: BLE001  logged, fails one request
            _log.warning("adapter %s cannot be loaded: %s", uses[0].name, error)
            result = as_failure(error)
            reason = result.reason
        seconds = self._clock() - began
        self._observer.on_adapter_load(seconds=seconds, tier=tier, reason=reason)
        done(result)

    def _read(self, use: AdapterUse) -> Adapter:
        digest = Digest.parse(use.digest)
        with self._registry.hold(digest, tenant=use.tenant) as path:
            return from_bytes(path, source=use.name)

    def _tier(self, uses: Uses) -> str:
        here = [self._registry.is_here(Digest.parse(use.digest), tenant=use.tenant) for use in uses]
        return "disk" if all(here) else "store"

    def _recall(self, unit: Unit) -> Prepared | None:
        with self._lock:
            stats = self._stats
            if unit not in self._kept:
                self._stats = replace(stats, num_misses=stats.num_misses + 1)
                return None
            self._stats = replace(stats, num_hits=stats.num_hits + 1)
            self._kept.move_to_end(unit)
            return self._kept[unit]

    def _keep(self, unit: Unit, prepared: Prepared) -> None:
        """Keep a unit and drop the least recently used ones beyond the limit."""
        if prepared.size_bytes > self._host_bytes:
            return
        with self._lock:
            size_bytes, num_evictions = self._stats.size_bytes, self._stats.num_evictions
            if self._kept.pop(unit, None) is None:
                size_bytes += prepared.size_bytes
            self._kept[unit] = prepared
            while size_bytes > self._host_bytes:
                _, dropped = self._kept.popitem(last=False)
                size_bytes -= dropped.size_bytes
                num_evictions += 1
            self._stats = replace(self._stats, size_bytes=size_bytes, num_evictions=num_evictions)
            self._digests = frozenset(own.digest for kept in self._kept for own in kept.members)
